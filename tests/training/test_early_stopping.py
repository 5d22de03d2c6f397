import torch

from pluriform.training.early_stopping import EarlyStopping


def test_one_network_keeps_its_best():
    weight = torch.zeros(2)
    stopping = EarlyStopping({"w": weight}, patience=2, members=None)
    for step, loss in enumerate([3.0, 1.0, 2.0, torch.nan]):
        assert not stopping.stopped
        stopping.update(torch.tensor([loss]), {"w": weight.fill_(step)})
    assert stopping.stopped
    assert stopping.best["w"].tolist() == [1.0, 1.0]


def test_members_stop_one_by_one():
    weight = torch.zeros(2, 1)
    stopping = EarlyStopping({"w": weight}, patience=1, members=2)
    for step, losses in enumerate([[5.0, 5.0], [6.0, 4.0], [1.0, 3.0], [0.0, 9.0]]):
        stopping.update(torch.tensor(losses), {"w": weight.fill_(step)})
    assert stopping.stopped
    assert stopping.best["w"].flatten().tolist() == [0.0, 2.0]  # the first stopped before its later, lower losses


def test_it_comes_back_from_its_tensors():
    weight = torch.ones(2)
    first, second = (EarlyStopping({"w": weight}, 3, None) for _ in range(2))
    first.update(torch.tensor([1.0]), {"w": weight * 7})
    first.update(torch.tensor([2.0]), {"w": weight * 8})
    second.restore(first.tensors())
    assert second.best["w"].tolist() == [7.0, 7.0]
    assert torch.equal(second.loss, first.loss)
    assert torch.equal(second.stale, first.stale)

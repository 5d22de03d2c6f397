import pytest
import torch
from sklearn.metrics import roc_auc_score

from pluriform.energy.curriculum import Curriculum


def test_it_begins_at_zero_and_grows_at_the_threshold_exactly():
    data, samples = torch.tensor([1.0, 3.0, 4.0, 5.0]), torch.tensor([2.0, 0.0, 0.5, 4.5])
    area = roc_auc_score([1] * 4 + [0] * 4, [*data.tolist(), *samples.tolist()])
    assert area == 12 / 16
    at, above = Curriculum(area, 9, window=4), Curriculum(area + 1e-9, 9, window=4)
    assert int(at) == 0
    at.update(data, samples)
    above.update(data, samples)
    assert (int(at), int(above)) == (1, 0)
    assert float(at.area) == area


def test_the_window_must_be_full_of_images_of_the_current_length():
    curriculum = Curriculum(0.8, 9, window=10)
    high, low = torch.ones(4), torch.zeros(4)
    lengths = []
    for _ in range(9):
        curriculum.update(high, low)
        lengths.append(int(curriculum))
    assert lengths == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_only_the_last_images_count():
    torch.manual_seed(0)
    curriculum = Curriculum(1.0, 9, window=100)
    data, samples = torch.randn(20, 16) + 0.5, torch.randn(20, 16)
    for pair in zip(data, samples, strict=True):
        curriculum.update(*pair)
    last = [part.flatten()[-100:].tolist() for part in (data, samples)]
    assert float(curriculum.area) == pytest.approx(roc_auc_score([1] * 100 + [0] * 100, last[0] + last[1]), abs=1e-12)
    assert int(curriculum) == 0


def test_batches_larger_than_the_window():
    curriculum = Curriculum(1.0, 9, window=3)
    curriculum.update(torch.tensor([0.0, 0.0, 5.0, 6.0, 7.0]), torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0]))
    assert float(curriculum.area) == 1.0
    assert int(curriculum) == 1


def test_it_stops_at_the_most_and_may_stay_at_zero():
    short, none = Curriculum(0.8, 2, window=2), Curriculum(0.8, 0, window=2)
    for _ in range(5):
        short.update(torch.ones(2), torch.zeros(2))
        none.update(torch.ones(2), torch.zeros(2))
    assert (int(short), int(none)) == (2, 0)


def test_forgetting_fills_the_window_anew():
    curriculum = Curriculum(0.8, 9, window=4)
    curriculum.update(torch.ones(3), torch.zeros(3))
    curriculum.forget()
    curriculum.update(torch.ones(3), torch.zeros(3))
    assert int(curriculum) == 0
    curriculum.update(torch.ones(1), torch.zeros(1))
    assert int(curriculum) == 1


def test_everything_that_changes_is_in_the_state():
    torch.manual_seed(0)
    first, second = Curriculum(0.7, 9, window=20), Curriculum(0.7, 9, window=20)
    batches = [(torch.randn(7) + 1, torch.randn(7)) for _ in range(30)]
    for pair in batches[:11]:
        first.update(*pair)
    for name, tensor in second.state.items():
        tensor.copy_(first.state[name])
    for pair in batches[11:]:
        first.update(*pair)
        second.update(*pair)
    assert int(first) == int(second) > 1
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)

import torch

from pluriform.translate.fake_buffer import FakeBuffer


def numbered(start, count):
    return torch.arange(start, start + count).float()[:, None]


def test_fills_first_then_exchanges_half():
    buffer = FakeBuffer(20, (1,))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(buffer.exchange(numbered(0, 20), generator), numbered(0, 20))
    assert torch.equal(buffer.stored, numbered(0, 20))
    shown = torch.cat([buffer.exchange(numbered(20 + 10 * i, 10), generator) for i in range(200)]).flatten()
    given = torch.arange(20, 2020).float()
    assert 0.4 < (shown == given).float().mean() < 0.6
    assert (shown <= given).all()  # Otherwise an earlier one.
    everything = torch.cat([shown[shown != given], buffer.stored.flatten(), given[shown == given]])
    assert sorted(everything.tolist()) == [float(i) for i in range(2020)]  # Each is shown once or still stored.

import pytest
import torch
from torch import nn

from pluriform.ensemble.heads.full import FullHead, full_count
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.target import layers_of

DRAWS = 4096


def made(target, code_size=16, hidden=64, seed=0, deviations=None, head=FullHead):
    torch.manual_seed(seed)
    layers = layers_of(target)
    deviations = deviations_of(layers) if deviations is None else deviations
    base = {entry.name: torch.zeros(entry.shape) for layer in layers for entry in layer.entries}
    return head(layers, code_size, hidden, deviations), base, deviations


def paper_target():
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def mednet():
    """The larger network for CIFAR-10 of the paper, 90,506 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3), nn.Linear(256, 128), nn.Linear(128, 10)
    )


@pytest.mark.parametrize(("target", "size", "published"), [(paper_target, 31_594, 17.6e6), (mednet, 90_506, 48.4e6)])
def test_published_size_of_the_generators_and_the_mixer(target, size, published):
    layers = layers_of(target())
    assert sum(layer.size for layer in layers) == size
    norms = len(layers) * 4 * 512
    mixer = 256 * 512 + 512 * 512 + 512 * 64 * len(layers)
    assert full_count(layers, 64, 512) - norms + mixer == pytest.approx(published, rel=0.01)


def test_count_is_that_of_the_head():
    head, _, _ = made(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, bias=False)))
    assert sum(parameter.numel() for parameter in head.parameters()) == full_count(head.layers, 16, 64)


def test_spread_of_every_tensor_over_draws_and_mean_zero():
    target = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(54, 7))
    head, base, deviations = made(target)
    torch.manual_seed(1)
    with torch.no_grad():
        weights = head(torch.randn(DRAWS, 2, 16), base)
    for name, tensor in weights.items():
        assert tensor.shape[1:] == base[name].shape
        variance = tensor.var(0, correction=0).mean()
        assert float(variance) == pytest.approx(deviations[name] ** 2, rel=0.05), name
        # Two sets of 4096 draws: the measured mean has variance 2 / 4096 of the tensor's.
        assert float(tensor.mean(0).square().mean()) < 4 * 2 / DRAWS * float(variance), name


def test_base_is_added_and_draws_depend_on_their_code_alone():
    head, base, _ = made(nn.Linear(5, 4))
    codes = torch.randn(3, 1, 16)
    shifted = head(codes, {name: tensor + 2 for name, tensor in base.items()})
    plain = head(codes, base)
    for name in base:
        assert torch.allclose(shifted[name], plain[name] + 2, atol=1e-6)
        assert torch.allclose(head(codes[1:2], base)[name][0], plain[name][1], atol=1e-6)


def test_layers_do_not_see_the_codes_of_others():
    head, base, _ = made(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)))
    codes = torch.randn(2, 2, 16)
    before, codes = head(codes, base), codes.clone()
    codes[:, 1] += 1
    after = head(codes, base)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.allclose(before["1.weight"], after["1.weight"])


def test_zero_deviation_starts_at_the_base_and_learns():
    head, base, _ = made(nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)))
    weights = head(torch.randn(3, 2, 16), base)
    assert torch.count_nonzero(weights["1.weight"]) == 0
    sum(tensor.square().sum() + tensor.sum() for tensor in weights.values()).backward()
    assert torch.count_nonzero(head.maps[1].grad) == head.maps[1].numel()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_equals_a_loop_over_layers_written_out():
    head, base, deviations = made(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), hidden=8)
    codes = torch.randn(3, 2, 16)
    for i, layer in enumerate(head.layers):
        features = codes[:, i]
        for k, weight in enumerate((head.trunk.first[i], head.trunk.second[i])):
            normal = (features @ weight - (features @ weight).mean(1, keepdim=True)) / (
                (features @ weight).var(1, correction=0, keepdim=True) + 1e-5
            ).sqrt()
            features = nn.functional.elu(normal * head.trunk.scales[k, i] + head.trunk.shifts[k, i])
        flat = (features - head.trunk.mean[i]) @ head.maps[i]
        own = layer.entries[0]
        expected = deviations[own.name] * flat[:, : own.size].view(3, *own.shape)
        assert torch.allclose(head(codes, base)[own.name], expected, atol=1e-5)

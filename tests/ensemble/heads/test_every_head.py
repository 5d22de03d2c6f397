"""What all heads have in common."""

import pytest
import torch
from torch import nn

from pluriform.ensemble.heads.choice import choose_head, make_head
from pluriform.ensemble.heads.initialisation import deviations_of, split
from pluriform.ensemble.target import layers_of
from pluriform.forms import load_form, save_form
from pluriform.graph.parameters import call

MODES = ["full", "chunked", "low-rank", "rank-one"]
DRAWS = 4096


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 5, 8) * 0.02)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.output = nn.Linear(8, 3)

    def forward(self, x):
        x = x + self.place
        return self.output(self.norm(self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(4, 6, batch_first=True)
        self.output = nn.Linear(6, 2)

    def forward(self, x):
        return self.output(self.cell(x)[0][:, -1])


class TiedTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.output = nn.Linear(8, 30)
        self.output.weight = self.table.weight

    def forward(self, x):
        return self.output(self.table(x).mean(1))


def half_frozen():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    network[0].requires_grad_(False)
    return network


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, groups=3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 4, 4, stride=2, padding=1), nn.Flatten(), nn.Linear(256, 5),
    )  # fmt: skip


TARGETS = {
    "attention": (Attention, torch.randn(2, 5, 8)),
    "recurrent": (Recurrent, torch.randn(2, 7, 4)),
    "tied": (TiedTable, torch.randint(30, (2, 4))),
    "frozen": (half_frozen, torch.randn(2, 6)),
    "convolutions": (convolutions, torch.randn(2, 3, 4, 4)),
    "one number": (lambda: nn.Linear(1, 1, bias=False), torch.randn(2, 1)),
}


def generator(mode, target, code_size=16, hidden=64, shared_fraction=0.3, seed=0):
    torch.manual_seed(seed)
    layers = layers_of(target)
    shares = {name: split(deviation, shared_fraction) for name, deviation in deviations_of(layers).items()}
    varying = {name: share.varying for name, share in shares.items()}
    base = {
        entry.name: torch.ones(entry.shape)
        if entry.kind == "scale"
        else torch.randn(entry.shape) * shares[entry.name][0]
        for layer in layers
        for entry in layer.entries
    }
    return make_head(mode, layers, code_size, hidden, varying), base, varying


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TARGETS)
def test_a_draw_is_a_set_of_weights_of_the_target(mode, name):
    target, inputs = TARGETS[name][0](), TARGETS[name][1]
    head, base, _ = generator(mode, target)
    weights = head(torch.randn(3, len(head.layers), 16), base)
    assert set(weights) == {name for name, tensor in target.named_parameters() if tensor.requires_grad}
    outputs = [call(target, {own: tensor[i] for own, tensor in weights.items()}, inputs) for i in range(3)]
    assert all(output.isfinite().all() for output in outputs)
    assert not torch.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TARGETS)
def test_counted_parameters_are_those_of_the_head(mode, name):
    target = TARGETS[name][0]()
    head, _, _ = generator(mode, target)
    choice = choose_head(layers_of(target), 16, 64, mode)
    assert choice.parameters[mode] == sum(parameter.numel() for parameter in head.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_every_tensor_has_the_asked_deviation_over_draws_around_its_base(mode):
    target = nn.Sequential(
        nn.Conv2d(3, 24, 3),
        nn.BatchNorm2d(24),
        nn.Flatten(),
        nn.Linear(96, 50),
        nn.Linear(50, 10),
        nn.Embedding(40, 12),
    )
    head, base, deviations = generator(mode, target)
    with torch.no_grad():
        weights = head(torch.randn(DRAWS, len(head.layers), 16), base)
    for name, tensor in weights.items():
        off = tensor - base[name]
        second = float(off.square().mean())
        assert second**0.5 == pytest.approx(deviations[name], rel=0.05, abs=1e-7), name
        # Means over two independent sets of 4096 draws, that of the fit and this one, have variance 2 / 4096 together.
        assert float(off.mean(0).square().mean()) <= 6 * 2 / DRAWS * second, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shared_fraction", [0.2, 0.7])
def test_correlation_between_draws_is_the_shared_fraction(mode, shared_fraction):
    head, base, _ = generator(mode, nn.Linear(120, 80), 32, 64, shared_fraction)
    with torch.no_grad():
        weights = head(torch.randn(200, 1, 32), base)["weight"].flatten(1)
    pairs = torch.corrcoef(weights)[~torch.eye(200, dtype=torch.bool)]
    assert float(pairs.mean()) == pytest.approx(shared_fraction, abs=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_activations_of_ten_layers_keep_their_scale(mode):
    layers = [part for _ in range(10) for part in (nn.Linear(128, 128, bias=False), nn.ReLU())]
    target = nn.Sequential(*layers)
    head, base, _ = generator(mode, target, 32, 64, 0.3)
    x = torch.randn(64, 128)
    with torch.no_grad():
        weights = head(torch.randn(48, 10, 32), base)
        squares = [
            call(target, {name: tensor[i] for name, tensor in weights.items()}, x).square().mean() for i in range(48)
        ]
    # The factor 2 restores the second moment that each ReLU halves.
    assert 0.6 < float(torch.stack(squares).mean()) < 1.7


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_every_parameter_and_zero_deviation_learns(mode):
    target = nn.Sequential(nn.Conv2d(2, 16, 3), nn.GroupNorm(2, 16), nn.Flatten(), nn.Linear(64, 10))
    head, base, _ = generator(mode, target)
    with torch.no_grad():
        start = head(torch.randn(4, 3, 16), base)
    assert torch.equal(start["1.weight"], torch.ones(4, 16))
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3)
    for _ in range(2):  # What starts at zero passes gradients on from the second step.
        optimiser.zero_grad()
        weights = head(torch.randn(4, 3, 16), base)
        sum((tensor - 1).square().sum() + tensor.sum() for tensor in weights.values()).backward()
        optimiser.step()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
    with torch.no_grad():
        assert not torch.equal(head(torch.randn(4, 3, 16), base)["1.weight"], torch.ones(4, 16))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [16, 512])
def test_a_step_of_adam_moves_weights_by_less_than_they_vary(mode, width):
    """Without units of the size of the weights it would move those of the wide layer by several deviations."""
    head, base, deviations = generator(mode, nn.Linear(width, 64), 64, 256)
    codes, optimiser = torch.randn(16, 1, 64), torch.optim.Adam(head.parameters(), lr=1e-3)
    before = head(codes, base)["weight"]
    (before * torch.randn(64, width)).sum().backward()  # Every draw is pushed the same way.
    optimiser.step()
    with torch.no_grad():
        moved = float((head(codes, base)["weight"] - before).square().mean().sqrt())
    assert 0.005 < moved / deviations["weight"] < 0.6


@pytest.mark.parametrize("mode", ["low-rank", "rank-one"])
def test_weights_of_zero_deviation_start_at_the_base_and_learn(mode):
    layers = layers_of(nn.Linear(30, 20))
    head = make_head(mode, layers, 8, 32, {"weight": 0.0, "bias": 0.0})
    base, codes = {"weight": torch.randn(20, 30), "bias": torch.zeros(20)}, torch.randn(3, 1, 8)
    assert torch.equal(head(codes, base)["weight"], base["weight"].expand(3, -1, -1))
    head(codes, base)["weight"].square().sum().backward()
    assert float(head.maps[0].grad.abs().max()) > 0


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_head_and_a_draw_does_not_depend_on_the_others(mode):
    one, base, _ = generator(mode, Attention(), seed=4)
    two, _, _ = generator(mode, Attention(), seed=4)
    codes = torch.randn(5, len(one.layers), 16)
    together, alone = one(codes, base), two(codes[3:4], base)
    for name in base:
        assert torch.allclose(together[name][3], alone[name][0], atol=1e-5), name


@pytest.mark.parametrize("mode", MODES)
def test_double_precision_gives_the_same_to_single_precision(mode):
    head, base, _ = generator(mode, convolutions())
    codes = torch.randn(2, len(head.layers), 16)
    single = head(codes, base)
    double = head.double()(codes.double(), {name: tensor.double() for name, tensor in base.items()})
    for name, tensor in double.items():
        assert tensor.dtype == torch.float64
        assert torch.allclose(tensor.float(), single[name], atol=1e-5), name


@pytest.mark.parametrize("mode", MODES)
def test_saved_head_gives_the_same_weights(mode, tmp_path):
    head, base, _ = generator(mode, convolutions())
    codes = torch.randn(2, len(head.layers), 16)
    loaded = load_form(save_form(head, tmp_path / "head"))
    for name, tensor in loaded(codes, base).items():
        assert torch.equal(tensor, head(codes, base)[name]), name

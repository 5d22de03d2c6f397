import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.errors import UnsupportedOpError
from pluriform.search import python_source as written
from pluriform.search.moves import draw_moves, replay
from pluriform.search.python_source import python_source, readable
from pluriform.search.start import morphable

NETS = ("mlp", "lenet", "convnet-bn", "myrtle5-bn", "resnet20", "resnet20-nonorm")


@pytest.fixture(scope="module")
def data():
    return pf.load("digits")


def owned(network):
    """The network again, from its source and its weights alone."""
    space: dict = {}
    exec(compile(python_source(network), "network.py", "exec"), space)
    made = space["Network"]()
    made.load_state_dict(network.state_dict())
    return made


def check(module, x):
    network = readable(morphable(module, x).module)
    made = owned(network)
    for mode in (False, True):
        network.train(mode)
        made.train(mode)
        with torch.no_grad():
            torch.manual_seed(0)
            first = network(x)
            torch.manual_seed(0)
            assert torch.equal(made(x), first)
    assert list(made.state_dict()) == list(network.state_dict())
    return network


@pytest.mark.parametrize("name", NETS)
def test_every_standard_network_morphed_computes_the_same_from_its_source(name, data):
    x = data.train.inputs[:4]
    graph = morphable(pf.nets.build(name, data), x)
    generator = np.random.default_rng(1)
    for _ in range(3):
        graph = replay(graph, draw_moves(graph, 1, generator))
    network = readable(graph.module)
    with torch.no_grad():
        expected = graph.module.eval()(x)
        assert torch.equal(network.eval()(x), expected)
        assert torch.equal(owned(network).eval()(x), expected)
    source = python_source(network)
    assert "pluriform" not in source
    assert all("." not in name for name, _ in network.named_children())
    assert source.splitlines()[2:4] == ["import torch", "from torch import nn"]


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 12))
        self.register_buffer("scale", torch.full((12,), 0.5))
        self.register_buffer("shift", torch.tensor([0.25, 1.5, -2.0] * 4), persistent=False)
        self.query, self.key, self.value = nn.Linear(12, 12), nn.Linear(12, 12, bias=False), nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12, eps=1e-3)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Sequential(nn.Linear(12, 6), nn.GELU(approximate="tanh"), nn.Linear(6, 3))

    def forward(self, x):
        x = x + self.place
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = F.softmax(q @ k.transpose(-2, -1) / 12**0.5, dim=-1)
        x = self.norm(x + self.drop(weights @ v)) * self.scale + self.shift
        batch = x.shape[0]
        y = torch.cat([x[:, :4].mean(1), x.flatten(1)[:, -12:]], dim=1).view(batch, 2, 12)[:, 0]
        return self.head(F.leaky_relu(y, 0.2))


def test_parameters_buffers_slices_and_functions(data):
    network = check(Mixed(), torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(0)))
    source = python_source(network)
    assert "nn.GELU(approximate='tanh')" in source
    assert "nn.LayerNorm((12,), eps=0.001)" in source
    assert "nn.Linear(12, 12, bias=False)" in source


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 6, 3, stride=2, padding="valid", dilation=(1, 2), groups=3, padding_mode="reflect")],
        [nn.Conv2d(3, 4, (3, 5), padding=(1, 2), bias=False), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.SiLU()],
        [nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), nn.GroupNorm(2, 4, affine=False), nn.PReLU(4)],
        [
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d((2, 1)),
            nn.AdaptiveAvgPool2d((2, None)),
            nn.Flatten(1, 2),
        ],
        [nn.Dropout2d(0.2), nn.Softplus(2.0), nn.Hardtanh(-2.0, 3.0), nn.InstanceNorm2d(3, affine=True), nn.ELU(0.5)],
        [nn.BatchNorm2d(3, track_running_stats=False), nn.Softmax(1), nn.Upsample(scale_factor=2, mode="nearest")],
    ],
)
def test_arguments_of_layers(layers):
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    width = nn.Sequential(*layers, nn.Flatten())(x).shape[1]
    check(nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 2)), x)


class Sequences(nn.Module):
    """Tokens, a recurrent layer, the last step before the padding."""

    def __init__(self, recurrent):
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(11, 6, padding_idx=0), recurrent
        self.head = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        steps, _ = self.recurrent(self.embedding(x.long()))
        last = (x > 0).sum(1) - 1
        return self.head(steps[torch.arange(x.shape[0]), last])


@pytest.mark.parametrize(
    ("recurrent", "line"),
    [
        (lambda: nn.GRU(6, 5, 2, batch_first=True, bidirectional=True), "nn.GRU(6, 5, num_layers=2, batch_first=True"),
        (lambda: nn.LSTM(6, 12, bias=False, batch_first=True, proj_size=10), "nn.LSTM(6, 12, bias=False"),
        (lambda: nn.RNN(6, 10, nonlinearity="relu", batch_first=True), "nonlinearity='relu')"),
    ],
)
def test_sequences_through_recurrent_layers(recurrent, line):
    source = python_source(check(Sequences(recurrent()), torch.tensor([[3.0, 4, 5, 0], [1, 2, 0, 0], [9, 9, 9, 9]])))
    assert "nn.Embedding(11, 6, padding_idx=0)" in source
    assert line in source
    assert "torch.arange(" in source


def test_a_cell_without_bias_and_functions_of_other_places():
    class Spectrum(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(4, 5, bias=False), nn.Sequential(nn.Linear(5, 8), nn.ReLU())
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            y = torch.fft.rfft(x, norm="ortho").abs()
            y = torch.where(y > 0.1, -y, torch.zeros_like(y, device=x.device))
            y = self.out(self.head(self.cell(y)))
            return y[:, [2, 0, 1]] / torch.linalg.norm(y, dim=1)[:, None]

    source = python_source(check(Spectrum(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))))
    assert "nn.GRUCell(4, 5, bias=False)" in source
    assert "torch.fft.rfft(x, norm='ortho')" in source
    assert "[:, [2, 0, 1]]" in source


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.third.weight = self.second.weight
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            return self.out(F.relu(self.third(F.relu(self.second(F.relu(self.first(x)))))))

    made = owned(check(Tied(), torch.randn(3, 4)))
    assert made.linear3.weight is made.linear2.weight


def test_a_source_that_computes_otherwise_is_not_handed_out(monkeypatch):
    network = readable(morphable(Mixed(), torch.randn(3, 8, 12)).module)
    monkeypatch.setitem(written.OPERATORS, operator.truediv, "*")
    with pytest.raises(UnsupportedOpError, match="an operation that reads otherwise than it computes"):
        python_source(network)


def test_what_cannot_be_written_is_named(data):
    class Own(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    network = nn.Sequential(nn.Flatten(), Own(), nn.Linear(64, 10))
    found = readable(morphable(network, data.train.inputs[:2]).module)
    with pytest.raises(UnsupportedOpError, match=r"layers of torch.nn and functions of torch; got .*Own \(own1\)"):
        python_source(found)

"""Which networks are chains, and what is said of the others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.fused.chain import Bending, NotFused, Pooling, Product, chain_of
from pluriform.fused.run import fused_program
from pluriform.graph.parameters import stack
from pluriform.nets.lenet import LeNet
from pluriform.nets.resnet import ResNet


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(48, 2)

    def forward(self, x):
        return self.two((x + self.one(x)).flatten(1))


class Functional(nn.Module):
    """A chain whose activations and flattening are functions and methods."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 2), nn.Linear(36, 2)

    def forward(self, x):
        return self.two(F.leaky_relu(self.one(x), 0.3).view(len(x), -1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 2)

    def forward(self, x):
        return self.two(self.one(self.one(x.flatten(1)).relu()))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.two = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(48, 2)

    def forward(self, x):
        tokens = x.reshape(len(x), 6, 8)
        return self.two(self.attention(tokens, tokens, tokens, need_weights=False)[0].flatten(1))


def tied():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48))
    network[3].weight = network[1].weight
    return network


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))


REFUSED = {
    "batch norm": (lambda: flat(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "batch_norm.* is not in this engine"),
    "residual": (Residual, "does not read the layer before it alone"),
    "groups": (lambda: flat(nn.Conv2d(3, 6, 3, groups=3)), "has 3 groups"),
    "dropout": (lambda: flat(nn.Conv2d(3, 6, 3), nn.Dropout(0.1)), "draws masks"),
    "attention": (Tokens, "is not in this engine"),
    "twice": (Twice, "is called twice"),
    "tied": (tied, "two layers share a weight"),
    "reflection": (lambda: flat(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect")), "pads with other than zeros"),
    "stride and dilation": (lambda: flat(nn.Conv2d(3, 6, 2, stride=2, dilation=2)), "both stride and dilation"),
    "softplus": (lambda: flat(nn.Conv2d(3, 6, 3), nn.Softplus()), "activation softplus is not"),
    "gelu": (lambda: flat(nn.Conv2d(3, 6, 3), nn.GELU("tanh")), "activation gelu is not"),
    "falling": (lambda: flat(nn.Conv2d(3, 6, 3), nn.LeakyReLU(-0.5)), "not increasing"),
    "cut-off windows": (lambda: flat(nn.Conv2d(3, 6, 2), nn.MaxPool2d(2, ceil_mode=True)), "windows that are cut off"),
    "average with zeros": (lambda: flat(nn.Conv2d(3, 6, 2), nn.AvgPool2d(2, padding=1)), "averages over padding"),
    "uneven windows": (lambda: flat(nn.Conv2d(3, 6, 2), nn.AdaptiveAvgPool2d(2)), "windows of several sizes"),
    "weight norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(48, 2))),
        "is not called as a plain|computes its weight",
    ),
    "images": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3)), "not one vector a sample"),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(48, 2)), "several positions"),
    "no weights": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "neither a linear layer nor a convolution"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_with_a_sentence(name):
    make, words = REFUSED[name]
    torch.manual_seed(0)
    network, x = make().train(), torch.randn(2, 3, 4, 4)
    network(x)
    with pytest.raises(NotFused, match=words):
        chain_of(network, x)


def test_a_resnet_is_refused():
    network = ResNet((3, 16, 16), 10).eval()
    with pytest.raises(NotFused):
        chain_of(network, torch.randn(1, 3, 16, 16))


def test_dropout_is_nothing_in_evaluation():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(48, 2)).eval()
    _, layers = chain_of(network, torch.randn(1, 3, 4, 4))
    assert [type(layer) for layer in layers] == [Product]


def test_functions_are_layers_too():
    shape, layers = chain_of(Functional(), torch.randn(1, 3, 4, 4))
    assert shape == (3, 4, 4)
    assert [type(layer) for layer in layers] == [Product, Bending, Product]
    assert layers[1].slope == 0.3
    assert (layers[0].weight, layers[2].bias) == ("one.weight", "two.bias")


def test_layers_of_lenet():
    shape, layers = chain_of(LeNet((1, 28, 28), 10), torch.zeros(1, 1, 28, 28))
    assert shape == (1, 28, 28)
    kinds = [Product, Bending, Pooling] * 2 + [Product, Bending] * 2 + [Product]
    assert [type(layer) for layer in layers] == kinds
    assert [layer.shape for layer in layers if isinstance(layer, Product)] == [
        (6, 28, 28), (16, 10, 10), (120, 1, 1), (84, 1, 1), (10, 1, 1),
    ]  # fmt: skip


def network_and_weights():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 2))
    return network, dict(stack([network] * 3).parameters), torch.randn(2, 3, 4, 4)


def test_programs_are_kept_until_layers_or_mode_change():
    network, weights, x = network_and_weights()
    first = fused_program(network, weights, x)
    assert fused_program(network, weights, x[:1]) is first
    network[2] = nn.Tanh()
    assert fused_program(network, weights, x) is not first
    network.insert(3, nn.Dropout(0.5))
    weights = dict(stack([network] * 3).parameters)
    with pytest.raises(NotFused, match="draws masks"):
        fused_program(network.train(), weights, x)
    assert fused_program(network.eval(), weights, x).outputs == 2


def test_weights_and_inputs_that_do_not_fit_are_refused():
    network, weights, x = network_and_weights()
    with pytest.raises(NotFused, match="float32 only"):
        fused_program(network, weights, x.double())
    with pytest.raises(NotFused, match=r"all networks share 1\.weight"):
        fused_program(network, {name: part for name, part in weights.items() if name.startswith("3")}, x)
    with pytest.raises(NotFused, match="other is no weight of a layer"):
        fused_program(network, weights | {"other": torch.zeros(3, 2)}, x)
    with torch.autocast("cpu"), pytest.raises(NotFused, match="mixed precision"):
        fused_program(network, weights, x)

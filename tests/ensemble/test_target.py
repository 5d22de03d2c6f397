import copy

import pytest
import torch
from torch import nn

from pluriform.ensemble.target import layers_of
from pluriform.errors import ConfigError


def paper_target():
    """The network for MNIST of the paper, 31,594 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def entries_of(module, **options):
    return {entry.name: entry for layer in layers_of(module, **options) for entry in layer.entries}


def fans_by_counting(layer, inputs):
    """Inputs that reach one output on average, and the reverse, from the Jacobian of the layer on a torus-like size."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1)
    jacobian = torch.autograd.functional.jacobian(layer, inputs).reshape(layer(inputs).numel(), inputs.numel())
    reached = jacobian != 0
    return reached.sum(1).max(), reached.sum(0).max()


def test_sizes_of_the_papers_network():
    layers = layers_of(paper_target())
    assert [(layer.name, layer.size) for layer in layers] == [("0", 832), ("3", 25_632), ("7", 5130)]
    assert sum(layer.size for layer in layers) == 31_594
    assert [entry.name for entry in layers[1].entries] == ["3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (1, 5)),
        (nn.Conv2d(4, 6, 3), (1, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 9, 9)),
        (nn.Conv1d(3, 5, 4, stride=2), (1, 3, 24)),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), (1, 6, 9, 9)),
        (nn.ConvTranspose1d(6, 4, 4, stride=2), (1, 6, 9)),
    ],
)
def test_fans_are_the_connections_of_the_layer(layer, shape):
    fan_in, fan_out = fans_by_counting(layer, torch.ones(shape))
    weight, bias = entries_of(layer).values()
    assert (weight.kind, weight.fan_in, weight.fan_out) == ("weight", fan_in, fan_out)
    assert (bias.kind, bias.fan_in, bias.fan_out) == ("bias", fan_in, fan_out)


def test_kinds_and_fans_of_attention_recurrence_norms_and_embeddings():
    attention = entries_of(nn.MultiheadAttention(8, 2))
    assert [(e.kind, e.fan_in) for e in attention.values()] == [("weight", 8), ("bias", 8), ("weight", 8), ("bias", 8)]
    separate = entries_of(nn.MultiheadAttention(8, 2, kdim=5, vdim=3, add_bias_kv=True))
    assert (separate["k_proj_weight"].fan_in, separate["v_proj_weight"].fan_in) == (5, 3)
    assert separate["bias_k"].kind == "bias"
    lstm = entries_of(nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2))
    assert lstm["weight_ih_l0_reverse"].fan_in == 3 + 2
    assert lstm["weight_hh_l1"].fan_in == 2 * 2 + 2
    assert (lstm["weight_hr_l0"].fan_in, lstm["bias_hh_l0"].kind) == (5, "bias")
    assert entries_of(nn.GRUCell(3, 5))["weight_hh"].fan_in == 8
    for norm in (nn.BatchNorm2d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)):
        assert [entry.kind for entry in entries_of(norm).values()] == ["scale", "shift"]
    table = entries_of(nn.Embedding(10, 4))["weight"]
    assert (table.kind, table.fan_in, table.size) == ("embedding", 1, 40)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.place = nn.Parameter(torch.zeros(1, 3, 6))
        self.register_buffer("step", torch.zeros(1))
        self.output = nn.Linear(6, 11)
        self.output.weight = self.table.weight

    def forward(self, x):
        return self.output(self.table(x) + self.place)


def test_tied_tensor_stands_once_under_its_first_name_with_the_larger_fans():
    entries = entries_of(Tied())
    assert list(entries) == ["place", "table.weight", "output.bias"]
    assert (entries["table.weight"].kind, entries["table.weight"].fan_in) == ("embedding", 6)
    assert (entries["place"].kind, entries["place"].shape) == ("other", (1, 3, 6))
    assert list(entries_of(Tied(), which="last")) == ["table.weight", "output.bias"]


def test_frozen_and_untrainable_tensors_are_left_out():
    network = paper_target()
    network[3].requires_grad_(False)
    network[0].bias.requires_grad_(False)
    assert list(entries_of(network)) == ["0.weight", "7.weight", "7.bias"]


def test_last_layer_by_graph_where_order_misleads():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)
            self.body = nn.Linear(4, 6)

        def forward(self, x):
            return self.head(self.body(x).relu())

    assert [layer.name for layer in layers_of(Reversed(), "last", example=torch.zeros(2, 4))] == ["head"]
    assert [layer.name for layer in layers_of(Reversed(), "last")] == ["body"]
    assert [layer.name for layer in layers_of(nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2)), "last")] == ["0"]


def test_registration_leaves_the_module_alone():
    network = Tied().eval()
    before = copy.deepcopy(network.state_dict())
    layers_of(network, "last", example=torch.zeros(2, 3, dtype=torch.long))
    assert not network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_refusals():
    with pytest.raises(ConfigError, match="expected a module with trainable parameters; got 0 parameters"):
        layers_of(nn.ReLU())
    with pytest.raises(ConfigError, match="2 parameters, none of them trainable"):
        layers_of(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ConfigError, match=r"one of a lazy module \(parameter 0.weight\).*call the network once"):
        layers_of(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ConfigError, match="which='all' or 'last'"):
        layers_of(nn.Linear(2, 2), "first")

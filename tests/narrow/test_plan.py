"""Where thin and wide networks are cut, and what is said of networks that do not line up."""

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import GraphError
from pluriform.graph.gather import widen
from pluriform.graph.trace import trace
from pluriform.narrow.plan import inner_groups, plan_units


def chain(layers, width=4, inputs=3):
    parts = [nn.Linear(inputs, width), nn.ReLU()]
    for _ in range(layers - 2):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return trace(nn.Sequential(*parts, nn.Linear(width, 2)), torch.zeros(2, inputs))


def zoo(name):
    data = pf.load("digits")
    return trace(pf.nets.build(name, data), data.train.inputs[:2])


class Transformer(nn.Module):
    """Two blocks of attention and MLP before a mean over tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        return self.head(x.mean(1))


def test_units_of_a_chain_end_behind_activations():
    graph = chain(4)
    plan = plan_units(graph, widen(graph, 3))
    assert plan.ends == ("1", "3", "5")
    assert [unit.lift for unit in plan.units] == ["pair", "pair", "pair", "none"]
    assert [(unit.thin, unit.wide) for unit in plan.units] == [((4,), (12,))] * 3 + [((2,), (2,))]


@pytest.mark.parametrize("units", [1, 2, 5, 6])
def test_many_places_are_thinned_out_evenly(units):
    graph = chain(20)
    plan = plan_units(graph, widen(graph, 2), units)
    assert len(plan.units) == units
    if units > 1:
        places = [int(end) // 2 for end in plan.ends]
        steps = [b - a for a, b in zip([-1, *places], places, strict=False)]
        assert max(steps) - min(steps) <= 1
        assert places[-1] == 18  # Right before the last layer.


def test_residual_networks_are_cut_where_a_stage_begins_with_a_projection():
    graph = zoo("resnet8")
    plan = plan_units(graph, widen(graph, 2))
    assert plan.ends[:2] == ("blocks.0.relu@1", "blocks.1.relu@1")
    assert {unit.lift for unit in plan.units[:-1]} == {"pair"}


def test_where_nothing_folds_lifts_serve_the_comparison_alone():
    graph = trace(Transformer(), torch.zeros(2, 5, 8))
    plan = plan_units(graph, widen(graph, 2), ends=("add", "add_1"))
    assert [unit.lift for unit in plan.units] == ["side", "pair", "none"]  # The last sum is averaged and read.
    assert "LayerNorm reads it" in plan.units[0].reason
    assert plan.units[0].axis == plan.units[1].axis == 2
    assert plan_units(graph, widen(graph, 2)).ends == ("embed", "mean")


def test_inner_groups_are_not_seen_between_blocks():
    graph = trace(Transformer(), torch.zeros(2, 5, 8))
    inner = inner_groups(graph)
    assert inner
    plan = plan_units(graph, widen(graph, 4, inner))
    assert {unit.lift for unit in plan.units} == {"none"}
    assert all(unit.thin == unit.wide for unit in plan.units)
    assert {unit.axis for unit in plan.units if len(unit.thin) == 2} == {2}  # Channels, not positions.
    assert widen(graph, 4, inner).root.mlps[0][0].out_features == 64


def test_outputs_of_stages_are_not_inside():
    graph = zoo("resnet8")  # The stages have projections: nothing that everything passes makes their channels.
    inner = inner_groups(graph)
    assert inner == ("blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1")
    assert {unit.lift for unit in plan_units(graph, widen(graph, 4, inner)).units} == {"none"}


class Functional(nn.Module):
    """Residual blocks in modules that call functions."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return torch.relu(x + self.conv(x))

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)
        self.stage = nn.Sequential(self.Block(), self.Block())

    def forward(self, x):
        return self.head(self.stage(torch.relu(self.stem(x))).mean((2, 3)))


def test_a_module_stands_for_its_last_node():
    graph = trace(Functional(), torch.zeros(2, 1, 8, 8))
    wide = widen(graph, 2)
    assert plan_units(graph, wide, ends=("stage.0", "stem")).ends == ("stem", "relu_1")
    assert plan_units(graph, wide, ends=("stage",)).ends == ("mean",)
    resnet = zoo("resnet8")
    assert plan_units(resnet, widen(resnet, 2), ends=("blocks.1",)).ends == ("blocks.1.relu@1",)
    with pytest.raises(GraphError, match="got the output of the network"):
        plan_units(graph, wide, ends=("output",))
    with pytest.raises(GraphError, match="got 'stages'"):
        plan_units(graph, wide, ends=("stages",))


def test_named_ends_are_taken_and_checked():
    graph = zoo("resnet8")
    plan = plan_units(graph, widen(graph, 2), ends=("blocks.1.relu@1", "stem.2"))
    assert plan.ends == ("stem.2", "blocks.1.relu@1")
    assert plan.units[0].lift == "side"
    assert "identity" in plan.units[0].reason
    with pytest.raises(GraphError, match=r"blocks\.0\.conv1.*a branch leads around.*choose among stem\.0"):
        plan_units(graph, widen(graph, 2), ends=("blocks.0.conv1",))


def test_networks_that_do_not_line_up_are_named():
    graph = zoo("lenet")
    other = trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8))
    with pytest.raises(GraphError, match="a node 'features.2' in the wide network, of shape 6x4x4 but"):
        plan_units(graph, other)
    larger = trace(pf.nets.lenet.LeNet((1, 12, 12), 10), torch.zeros(2, 1, 12, 12))
    with pytest.raises(GraphError, match="the shape 6x4x4 at features.2 but for its channels; got 6x6x6"):
        plan_units(graph, larger)


def test_a_wide_network_with_fewer_channels_somewhere_is_named():
    def layers(*widths):
        parts = [nn.Linear(3, widths[0]), nn.ReLU(), nn.Linear(*widths), nn.ReLU(), nn.Linear(widths[1], 2)]
        return trace(nn.Sequential(*parts), torch.zeros(2, 3))

    with pytest.raises(GraphError, match="at least as many channels as in 6 at 3; got 5"):
        plan_units(layers(4, 6), layers(8, 5))


def test_the_plan_is_a_table():
    graph = chain(3)
    lines = str(plan_units(graph, widen(graph, 2))).splitlines()
    assert lines[0].split() == ["unit", "ends", "with", "thin", "wide", "map"]
    assert lines[1].split() == ["1", "1", "4", "8", "pair"]
    assert len(lines) == 4

"""Edits keep what they do not touch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError, ShapeError
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import insert, remove, replace
from pluriform.graph.trace import trace
from pluriform.nets.zoo import build

torch.set_num_threads(1)
SIGNATURE = Signature("s", "classification", (3, 16, 16), 5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x))) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), nn.Dropout(0.2), Block())
        self.head = nn.Linear(3 * 36, 4)

    def forward(self, x):
        x = torch.tanh(self.blocks(x))
        return self.head(x.view(x.size(0), -1))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def batch(count=5, shape=(3, 6, 6)):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def graph():
    return trace(seeded(Net), batch(2))


INSERTABLE = [node.name for node in trace(seeded(Net), batch(2)).nodes if node.op is not Op.OUTPUT]


@pytest.mark.parametrize("after", INSERTABLE)
def test_insert_of_the_identity_keeps_the_output(graph, after):
    edited = insert(graph, after, nn.Identity(), "extra.identity")
    assert torch.equal(edited.module(batch()), graph.root(batch()))
    assert edited["extra.identity"].inputs == (after,)
    assert {node.name for node in edited.nodes} == {node.name for node in graph.nodes} | {"extra.identity"}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(INSERTABLE), st.booleans()), min_size=1, max_size=4))
def test_inserts_undone_by_removes(steps):
    graph = edited = trace(seeded(Net), batch(2))
    for number, (after, _) in enumerate(steps):
        edited = insert(edited, after, nn.Identity(), f"extra{number}")
    for number, (_, taken_out) in enumerate(steps):
        edited = remove(edited, f"extra{number}") if taken_out else edited
    assert torch.equal(edited.module(batch()), graph.root(batch()))
    kept = {f"extra{number}" for number, (_, taken_out) in enumerate(steps) if not taken_out}
    assert {node.name for node in edited.nodes} == {node.name for node in graph.nodes} | kept


def test_insert_is_felt_by_all_consumers(graph):
    edited = insert(graph, "blocks.0.norm", nn.Softplus(), "bend")
    expected = copy.deepcopy(graph.root)
    expected.blocks[0].norm = nn.Sequential(expected.blocks[0].norm, nn.Softplus())
    assert torch.equal(edited.module(batch()), expected(batch()))


def test_the_old_network_is_left_as_it_was():
    net = seeded(Net)
    before, graph = copy.deepcopy(net.state_dict()), trace(net, batch(2))
    code = graph.module.code
    layer = nn.Linear(108, 108)
    for edited in (
        insert(graph, "view", layer, "wide"),
        remove(graph, "blocks.1"),
        replace(graph, "head", nn.Linear(108, 2)),
        replace(graph, "relu", nn.Tanh()),
    ):
        with torch.no_grad():
            for tensor in (*edited.root.parameters(), *edited.root.buffers()):
                tensor.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert layer.weight.abs().sum() > 0
    assert graph.module.code == code
    assert net.training is False


def test_replaced_module_keeps_the_class_and_every_other_key(graph):
    edited = replace(graph, "head", nn.Linear(108, 9))
    assert type(edited.root) is Net
    assert edited.output.shape == (2, 9)
    for name, tensor in graph.root.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(edited.root.state_dict()[name], tensor)
    assert torch.equal(edited.module(batch()), edited.root(batch()))


def test_replaced_function(graph):
    edited = replace(graph, "relu", nn.Identity())
    net = copy.deepcopy(graph.root)
    x = batch()
    for block in (net.blocks[0], net.blocks[2]):
        y = block.norm(block.conv(x))
        x = (y if block is net.blocks[0] else y.relu()) + x
    torch.testing.assert_close(edited.module(batch()), net.head(torch.tanh(x).flatten(1)))
    assert edited["relu"].op is Op.IDENTITY
    assert edited["relu"].source == graph["relu"].source
    assert edited["relu_1"].op is Op.ACTIVATION


def test_removed_norm(graph):
    edited = remove(graph, "blocks.2.norm")
    expected = copy.deepcopy(graph.root)
    expected.blocks[2].norm = nn.Identity()
    assert torch.equal(edited.module(batch()), expected(batch()))
    assert not any("blocks.2.norm" in name for name in edited.root.state_dict())


def test_group_norms_for_batch_norms_of_a_zoo_network():
    net = build("resnet20", SIGNATURE).eval()
    graph = trace(net, torch.zeros(2, 3, 16, 16))
    norms = [node for node in graph.nodes if node.op is Op.BATCH_NORM]
    for node in norms[:4]:
        graph = replace(graph, node.name, nn.GroupNorm(4, node.shape[1]))
    assert type(graph.root) is type(net)
    assert sum(node.op is Op.GROUP_NORM for node in graph.nodes) == 4
    assert sum(node.op is Op.BATCH_NORM for node in graph.nodes) == len(norms) - 4
    assert graph.module(torch.zeros(3, 3, 16, 16)).shape == (3, 5)


def test_edited_networks_can_be_traced_again(graph):
    edited = insert(remove(graph, "relu"), "blocks.0.conv", nn.ReLU(), "first")
    again = trace(edited.module, batch(3))
    assert [node.name for node in again.nodes] == [node.name for node in edited.nodes]
    assert [node.source for node in again.nodes] == [node.source for node in edited.nodes]


def test_errors_name_the_node(graph):
    with pytest.raises(GraphError, match="did you mean.*blocks.0.conv"):
        insert(graph, "blocks.0.con", nn.ReLU(), "a")
    with pytest.raises(GraphError, match="expected a new name; got 'head'"):
        insert(graph, "relu", nn.ReLU(), "head")
    with pytest.raises(GraphError, match="insert behind the node before it"):
        insert(graph, "output", nn.ReLU(), "a")
    with pytest.raises(GraphError, match=r"keeps the shape; got head \(linear, test_rewrite.py:\d+\) from"):
        remove(graph, "head")
    with pytest.raises(GraphError, match=r"one input; got add \(add, .*\) with inputs relu, x"):
        remove(graph, "add")
    with pytest.raises(ShapeError, match="fit together.*after replace of head"):
        replace(graph, "head", nn.Linear(7, 2))
    with pytest.raises(ShapeError, match="after insert of odd behind relu"):
        insert(graph, "relu", nn.Conv2d(9, 9, 1), "odd")


def test_a_module_of_two_names_is_exchanged_under_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.classifier = self.fc

        def forward(self, x):
            return self.classifier(x)

    x, new = torch.randn(5, 4), nn.Linear(4, 3)
    changed = replace(trace(Twice(), x), "fc", new)
    assert torch.equal(changed.module(x), new(x))
    assert changed.root.fc is changed.root.classifier

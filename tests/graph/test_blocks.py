import torch
from torch import nn

import pluriform as pf
from pluriform.data.signature import Signature
from pluriform.graph.blocks import blocks, passages
from pluriform.graph.trace import trace

FACTS = Signature("pictures", "classification", (3, 16, 16), 10, tuple("0123456789"), (0.0, 1.0))
X = torch.zeros(2, 3, 16, 16)


def without(graph, name: str) -> bool:
    """Whether the output can still be reached from the inputs when a node is left out: brute force."""
    reached = {node.name for node in graph.inputs}
    for node in graph.nodes:
        if node.name != name and reached.intersection(node.inputs):
            reached.add(node.name)
    return graph.output.name in reached


def test_passages_are_the_nodes_that_cannot_be_left_out():
    for name in ("resnet8", "wrn-10-1", "lenet-bn", "mlp"):
        graph = trace(pf.nets.build(name, FACTS).eval(), X)
        inner = [node.name for node in graph.nodes if node not in (*graph.inputs, graph.output)]
        assert list(passages(graph)) == [node for node in inner if not without(graph, node)], name


def test_residual_blocks_are_blocks():
    graph = trace(pf.nets.build("resnet8", FACTS).eval(), X)
    found = blocks(graph)
    assert [block.nodes[0].split(".")[0] for block in found] == ["stem", "blocks", "blocks", "blocks", "classifier"]
    inside = [{name.split(".conv")[0] for name in block.nodes if ".conv" in name} for block in found[1:4]]
    assert inside == [{"blocks.0"}, {"blocks.1"}, {"blocks.2"}]
    assert sum(len(block.nodes) for block in found) == len(graph) - 1  # Each node once, without the input.


class Positions(nn.Module):
    """Adds a parameter of its own to what a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.head = nn.Linear(4, 6), nn.Parameter(torch.zeros(6)), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x) + self.place)


def test_every_parameter_belongs_to_a_block():
    graph = trace(Positions(), torch.zeros(2, 4))
    found = blocks(graph)
    assert any("embed" in name for name in found[0].nodes)
    assert "place" in {name for block in found for name in block.nodes}
    assert found[-1].nodes[0] == "head"

"""Inputs of layers, and cotangents of their outputs: one forward pass, and one backward pass for each output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pluriform.graph.graph import Graph
from pluriform.graph.inplace import writes_in_place
from pluriform.infinite.empirical.layer import Layer

__all__ = ["Captured", "capture"]


@dataclass(frozen=True, eq=False)
class Captured:
    """What one layer saw.

    Attributes:
        a: Its input, `(n, ...)`.
        b: Derivative of every network output with respect to its output, `(n, outputs, ...)`.
    """

    a: Tensor
    b: Tensor


class _Recorder(fx.Interpreter):
    """Runs the code and keeps what chosen nodes read and give."""

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        super().__init__(graph.module)
        self.wanted = {graph.names[layer.node.name] for layer in layers}
        self.written = any(writes_in_place(node, graph.module) for node in graph.module.graph.nodes)
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            read = self.env[n.all_input_nodes[0]]
            self.seen[n.name] = (read.detach(), value)
            return value.clone() if self.written else value
        return value


def capture(graph: Graph, layers: Sequence[Layer], x: Tensor, block: slice) -> dict[str, Captured]:
    """Inputs and output cotangents of layers, by name of their nodes; no gradient of a parameter is formed.

    Args:
        graph: The traced network.
        layers: Which.
        x: Inputs of the network.
        block: Network outputs.
    """
    recorder = _Recorder(graph, layers)
    with torch.enable_grad():
        outputs = recorder.run(x.detach())[:, block]
    names = list(recorder.seen)
    results = [recorder.seen[name][1] for name in names]
    cotangents: dict[str, list[Tensor]] = {name: [] for name in names}
    for output in range(outputs.shape[1]):
        grads = torch.autograd.grad(
            outputs[:, output].sum(),
            results,
            retain_graph=output + 1 < outputs.shape[1],
            allow_unused=True,
            materialize_grads=True,
        )
        for name, grad in zip(names, grads, strict=True):
            cotangents[name].append(grad)
    by_code = {graph.names[layer.node.name]: layer.node.name for layer in layers}
    return {by_code[name]: Captured(recorder.seen[name][0], torch.stack(cotangents.pop(name), 1)) for name in names}

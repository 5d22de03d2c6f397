"""Inputs of layers, and cotangents of their outputs: one forward pass, and one backward pass for each output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from pluriform.graph.graph import Graph
from pluriform.graph.inplace import writes_in_place
from pluriform.infinite.empirical.layer import Layer

__all__ = ["Recording", "cotangents", "record"]


@dataclass(frozen=True, eq=False)
class Recording:
    """One forward pass whose graph of operations is kept.

    Attributes:
        x: Inputs of the network.
        outputs: Its outputs, `(n, outputs)`.
        inputs: Input of each layer, by node.
        results: Output of each layer, by node.
        kept: What was computed from inputs of layers and serves every output, by node and purpose.
        inner: Inner products of patches with those of another recording, whose `token` stands first, by node.
        token: Names this recording.
    """

    x: Tensor
    outputs: Tensor
    inputs: dict[str, Tensor]
    results: dict[str, Tensor]
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    inner: dict[str, tuple[object, Tensor]] = field(default_factory=dict)
    token: object = field(default_factory=object)


class _Recorder(fx.Interpreter):
    """Runs the code and keeps what chosen nodes read and give."""

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        super().__init__(graph.module)
        self.wanted = {graph.names[layer.node.name]: layer.node.name for layer in layers}
        self.written = any(writes_in_place(node, graph.module) for node in graph.module.graph.nodes)
        self.inputs: dict[str, Tensor] = {}
        self.results: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self.wanted:
            return value
        source = next(node for node in n.all_input_nodes if node.op != "get_attr")
        name, read = self.wanted[n.name], self.env[source].detach()
        self.inputs[name] = read.clone() if self.written else read
        self.results[name] = value
        return value.clone() if self.written else value


def record(graph: Graph, layers: Sequence[Layer], x: Tensor) -> Recording:
    """Run the network once.

    Args:
        graph: The traced network.
        layers: Whose inputs and outputs to keep.
        x: Inputs of the network.
    """
    recorder = _Recorder(graph, layers)
    with torch.enable_grad():
        outputs = recorder.run(x.detach())
    return Recording(x, outputs, recorder.inputs, recorder.results)


def cotangents(recording: Recording, block: slice) -> Iterator[dict[str, Tensor]]:
    """Derivatives of network outputs, one at a time, with respect to the outputs of layers; weights have no part.

    Args:
        recording: A forward pass.
        block: Network outputs.

    Yields:
        By node, `(n, 1, ...)`.
    """
    results = list(recording.results.values())
    for output in recording.outputs[:, block].unbind(1):
        grads = torch.autograd.grad(
            output,
            results,
            torch.ones_like(output),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        yield {name: grad[:, None] for name, grad in zip(recording.results, grads, strict=True)}

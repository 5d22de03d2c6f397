"""`Layer`: a place of the graph whose parameters' gradients have a known form in its input and output cotangents.

A linear or convolutional layer is a matrix product at every position p: with patches `a_p` of its input and cotangents
`b_p` of its output,

    df/dW = sum_p b_p a_p'        df/dbias = sum_p b_p

and a norm with normalised input `u`, scale and shift has `df/dscale = sum_p b_p u_p`, `df/dshift = sum_p b_p`.
"""

import operator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op

__all__ = ["Layer", "layers_of", "padded"]

Kind = Literal["linear", "conv", "conv_transpose", "norm"]
KINDS: dict[Op, Kind] = {
    Op.LINEAR: "linear",
    Op.CONV: "conv",
    Op.CONV_TRANSPOSE: "conv_transpose",
    Op.BATCH_NORM: "norm",
    Op.LAYER_NORM: "norm",
    Op.GROUP_NORM: "norm",
    Op.INSTANCE_NORM: "norm",
    Op.RMS_NORM: "norm",
}
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer with parameters of its own, used once.

    Attributes:
        node: Its node.
        kind: Form of its gradients.
        weight: Name of the trainable weight, or `None`.
        bias: Name of the trainable bias, or `None`.
        shape: Of the weight, trainable or not; of a norm that of its scale or shift.
        module: The norm, or `None`.
    """

    node: Node
    kind: Kind
    weight: str | None
    bias: str | None
    shape: tuple[int, ...]
    module: nn.Module | None = None

    @property
    def groups(self) -> int:
        """Of a convolution; else 1."""
        return int(self.node.attributes.get("groups", 1))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the trainable parameters."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def patches(self, a: Tensor) -> Tensor:
        """Of the input `(n, ...)` of a linear or convolutional layer: `(n, groups, fan-in, positions)`."""
        if self.kind == "conv":
            return _patches(a, self.node, self.groups)
        if self.kind == "conv_transpose":
            return a.flatten(2).unflatten(1, (self.groups, -1))
        return a.flatten(1, -2)[:, None].transpose(2, 3) if a.dim() > 2 else a[:, None, :, None]

    def cotangents(self, b: Tensor, positions: tuple[int, ...]) -> Tensor:
        """Of the cotangents `(n, outputs, ...)` of its output: `(n, outputs, groups, fan-out, positions)`.

        A transposed convolution reads windows of its output, at the positions of its input.
        """
        if self.kind == "conv":
            return b.flatten(3).unflatten(2, (self.groups, -1))
        if self.kind == "conv_transpose":
            windows = _patches(b.flatten(0, 1), self.node, self.groups, positions)
            return windows.unflatten(0, tuple(b.shape[:2]))
        return b.flatten(2, -2)[:, :, None].transpose(3, 4) if b.dim() > 3 else b[:, :, None, :, None]

    def normalised(self, a: Tensor) -> Tensor:
        """What a norm multiplies with its scale."""
        if self.module is None:
            raise TypeError(self.kind)
        plain = {
            name: torch.ones_like(p) if name == "weight" else torch.zeros_like(p)
            for name, p in self.module.named_parameters()
        }
        return torch.func.functional_call(self.module, plain, (a,))

    def scale_gradient(self, plain: Tensor, b: Tensor) -> Tensor:
        """Of a norm, from its normalised input and the cotangents of its output: `(n, outputs, size)`."""
        if isinstance(self.module, nn.LayerNorm | nn.RMSNorm) or b.dim() == 3:
            return self.reduced(b * plain[:, None])
        rows = b.flatten(3)[:, :, :, None] @ plain.flatten(2)[:, None, :, :, None]
        return rows.flatten(2)

    def reduced(self, b: Tensor) -> Tensor:
        """Sum over positions: what is left are outputs and the axes of the bias, `(n, outputs, size)`."""
        if self.kind == "linear":
            return b.flatten(2, -2).sum(2) if b.dim() > 3 else b
        if self.kind == "norm" and isinstance(self.module, nn.LayerNorm | nn.RMSNorm):
            kept = len(self.shape)
            return b.flatten(2, -kept - 1).sum(2).flatten(2) if b.dim() > 2 + kept else b.flatten(2)
        return b.flatten(3).sum(3) if b.dim() > 3 else b


def _patches(x: Tensor, node: Node, groups: int, positions: tuple[int, ...] | None = None) -> Tensor:
    """The window of every position, `(n, groups, channels per group * taps, positions)`."""
    facts = node.attributes
    kernel, stride, dilation = facts["kernel_size"], facts["stride"], facts["dilation"]
    x = padded(x, node)
    n, channels, *lengths = x.shape
    counts = positions or tuple(
        (length - d * (k - 1) - 1) // s + 1 for length, k, s, d in zip(lengths, kernel, stride, dilation, strict=True)
    )
    x = x.contiguous()
    steps = x.stride()[2:]
    windows = x.as_strided(
        (n, channels, *kernel, *counts),
        (
            *x.stride()[:2],
            *(step * d for step, d in zip(steps, dilation, strict=True)),
            *(step * s for step, s in zip(steps, stride, strict=True)),
        ),
    )
    return windows.reshape(n, groups, -1, torch.Size(counts).numel())


def padded(x: Tensor, node: Node) -> Tensor:
    """The input of a convolution with its padding."""
    facts = node.attributes
    if not any(side for pair in facts["padding"] for side in pair):
        return x
    mode = facts.get("padding_mode", "zeros")
    flat = [side for pair in reversed(facts["padding"]) for side in pair]
    return F.pad(x, flat, "constant" if mode == "zeros" else mode)


def layers_of(graph: Graph, trained: dict[str, Tensor]) -> tuple[Layer, ...]:
    """Layers whose parameters are used at that one place only.

    Args:
        graph: The traced network.
        trained: Trainable parameters by name; which of them no layer claims is left to the caller.
    """
    own = {id(parameter): name for name, parameter in graph.root.named_parameters()}
    uses: dict[int, int] = {}
    for node in graph.nodes:
        for tensor in _read(graph, node):
            uses[id(tensor)] = uses.get(id(tensor), 0) + 1
    found = []
    for node in graph.nodes:
        weights = _weights(graph, node)
        if weights is None:
            continue
        weight, bias = weights
        names = [
            own[id(p)] if p is not None and uses.get(id(p)) == 1 and own.get(id(p)) in trained else None
            for p in (weight, bias)
        ]
        shape = next((tuple(p.shape) for p in (weight, bias) if p is not None), ())
        if any(names):
            module = graph.submodule(node) if KINDS[node.op] == "norm" else None
            found.append(Layer(node, KINDS[node.op], names[0], names[1], shape, module))
    return tuple(found)


def _read(graph: Graph, node: Node) -> list[Tensor]:
    """Parameters that a node reads, once for each reader."""
    if node.module is not None:
        return list(graph.submodule(node).parameters())
    read = [graph[name].attributes["path"] for name in node.inputs if graph[name].op is Op.PARAMETER]
    return [found for path in read if (found := _attribute(graph, str(path))) is not None]


def _weights(graph: Graph, node: Node) -> tuple[Tensor | None, Tensor | None] | None:
    """Weight and bias of a node of a known kind, or None."""
    if node.op not in KINDS or (node.module is None and KINDS[node.op] == "norm"):
        return None
    if node.module is None:
        return _given(graph, node)
    module = graph.submodule(node)
    if KINDS[node.op] == "norm" and type(module) not in NORMS:
        return None
    direct = dict(module.named_parameters(recurse=False))
    return direct.get("weight"), direct.get("bias")


def _given(graph: Graph, node: Node) -> tuple[Tensor | None, Tensor | None] | None:
    """Weight and bias that a function was called with."""
    code = graph.fx_node(node.name)
    if code.op != "call_function":
        return None
    taken = []
    for position, name in ((1, "weight"), (2, "bias")):
        item = code.args[position] if len(code.args) > position else code.kwargs.get(name)
        taken.append(
            _attribute(graph, str(item.target)) if isinstance(item, fx.Node) and item.op == "get_attr" else None
        )
    return taken[0], taken[1]


def _attribute(graph: Graph, path: str) -> Tensor | None:
    found = operator.attrgetter(path)(graph.module)
    return found if isinstance(found, Tensor) else None

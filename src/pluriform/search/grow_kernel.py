"""`grow_kernel`: a larger convolution kernel whose new taps are zero, with as much more padding.

    W' = W inside zeros,  padding' = padding + dilation

Exact in both modes for every padding mode, stride, dilation and number of groups.

References:
    Cai, Chen, Zhang, Yu, Wang 2018, Efficient Architecture Search by Network Transformation, arXiv:1707.04873.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op
from pluriform.search.morphism import Change, Morph, Setting, WeightEdit, refusal
from pluriform.search.outline import Outline

__all__ = ["grow_kernel", "grow_kernel_moves"]

LARGEST = 7


def grow_kernel_moves(outline: Outline) -> Iterator[Morph]:
    """Every convolution layer whose kernel may be two longer."""
    for node in outline.nodes:
        if node.op is Op.CONV and _reason(outline, node) is None and outline.layer(node) is not None:
            if any(first.module == node.module for first in outline.nodes[: outline.nodes.index(node)]):
                continue
            kernel = _grown(node.attributes["kernel_size"])
            if max(kernel) <= LARGEST and _reaches(outline, node, kernel):
                yield Morph("grow_kernel", (node.name,), kernel)


def grow_kernel(outline: Outline, morph: Morph) -> Change:
    """Plan a larger kernel.

    Args:
        outline: The network.
        morph: `place` names a convolution, `numbers` the new kernel length of each axis.

    Raises:
        GraphError: The node is no convolution with a weight of its own, or the kernel does not grow by even numbers.
    """
    node, kernel = outline[morph.place[0]], morph.numbers
    layer = outline.layer(node)
    reason = _reason(outline, node)
    if reason is not None or not isinstance(layer, nn.modules.conv._ConvNd) or node.module is None:
        raise refusal("a convolution with a weight of its own", f"{node}{reason or ''}", "grow_kernel")
    old = tuple(layer.kernel_size)
    more = [new - length for new, length in zip(kernel, old, strict=False)]
    if len(kernel) != len(old) or min(more) < 0 or max(more) < 1 or any(number % 2 for number in more):
        raise refusal(f"a kernel larger than {old} by even numbers", str(kernel), f"grow_kernel of {node}")
    sides = [side for number in reversed(more) for side in (number // 2, number // 2)]

    def make(weight: Tensor, _: torch.Generator) -> Tensor:
        return F.pad(weight, sides)

    shape = (*layer.weight.shape[:2], *kernel)
    edit = WeightEdit((f"{node.module}.weight",), shape, make)
    return Change(weights=(edit,), settings=_settings(node.module, layer, tuple(kernel), more))


def _settings(
    path: str, layer: nn.modules.conv._ConvNd, kernel: tuple[int, ...], more: list[int]
) -> tuple[Setting, ...]:
    """Kernel, padding, and the padding that modes other than zeros keep for themselves."""
    pairs = [number * spread // 2 for number, spread in zip(more, layer.dilation, strict=True)]
    padding = layer.padding
    if padding != "same":
        old = (0,) * len(kernel) if isinstance(padding, str) else tuple(padding)
        padding = tuple(side + extra for side, extra in zip(old, pairs, strict=True))
    before = layer._reversed_padding_repeated_twice
    twice = [side + pairs[-1 - place // 2] for place, side in enumerate(before)]
    return (
        Setting(path, "kernel_size", kernel),
        Setting(path, "padding", padding),
        Setting(path, "_reversed_padding_repeated_twice", twice),
    )


def _grown(kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Two longer on every axis; of (3, 1) only the first."""
    longest = max(kernel)
    return tuple(length + 2 if length > 1 or longest == 1 else length for length in kernel)


def _reaches(outline: Outline, node: Node, kernel: tuple[int, ...]) -> bool:
    """Whether the outermost taps reach into the input, in every call."""
    calls = [each for each in outline.nodes if each.module == node.module]
    spread = node.attributes["dilation"]
    mode = node.attributes["padding_mode"]
    for call in calls:
        lengths = outline[call.inputs[0]].shape[-len(kernel) :]
        for length, size, step, (side, _) in zip(lengths, kernel, spread, node.attributes["padding"], strict=True):
            grown = side + step if size > 1 else side
            if step * (size // 2) >= length and size > 1:
                return False
            if (mode == "reflect" and grown >= length) or (mode == "circular" and grown > length):
                return False
    return True


def _reason(outline: Outline, node: Node) -> str | None:
    """Why the weight of a node cannot be exchanged alone."""
    layer = outline.layer(node)
    if node.op is not Op.CONV or not isinstance(layer, nn.modules.conv._ConvNd):
        return ""
    if parametrize.is_parametrized(layer):
        return ", whose weight is computed from others"
    if outline.addresses[id(layer.weight)] != (f"{node.module}.weight",):
        return ", which shares its weight with another layer"
    return None

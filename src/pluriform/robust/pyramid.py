"""Feature maps of a network at several resolutions, for detection and segmentation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.errors import ConfigError, GraphError, ShapeError, explain
from pluriform.graph.blocks import passages
from pluriform.graph.features import tap
from pluriform.graph.graph import Graph
from pluriform.graph.parameters import modes_kept
from pluriform.graph.trace import trace
from pluriform.prediction import Predictor
from pluriform.robust.head import network_of

__all__ = ["Pyramid"]


class Pyramid(nn.Module):
    """The last feature map at each resolution, by stride: height of the inputs over height of the map, rounded.

    Maps are taken where everything passes, so at the ends of residual blocks, not inside; maps of one pixel are left
    out. The pyramid shares its weights with the network, and gradients flow into them and into the inputs; what lies
    behind the last map is not computed.

    Args:
        network: A form of one network, or a network, that takes images.
        strides: Which maps; all of them by default.
        example: One batch of images, of which the shape is read; a form knows its own.

    Attributes:
        strides: In rising order.
        channels: Of each map, by stride.
        nodes: Name of the node in the graph of the network, by stride.

    Raises:
        ConfigError: No example for a plain network, no strides, or strides that the network does not have.
        ShapeError: The network takes no images, or not these.
        GraphError: It has no feature maps that everything passes.

    References:
        Lin, Dollar, Girshick, He, Hariharan, Belongie 2017, Feature Pyramid Networks for Object Detection,
        arXiv:1612.03144.

    Example:
        >>> import pluriform as pf
        >>> net = pf.nets.build("resnet8", pf.load("digits"))
        >>> {stride: tuple(map.shape) for stride, map in Pyramid(net, example=torch.zeros(3, 1, 8, 8))(
        ...     torch.zeros(3, 1, 8, 8)).items()}
        {1: (3, 16, 8, 8), 2: (3, 32, 4, 4), 4: (3, 64, 2, 2)}
    """

    def __init__(self, network: nn.Module, strides: Sequence[int] | None = None, example: Tensor | None = None) -> None:
        super().__init__()
        own = network_of(network)
        graph = _read(own, _example(network, example))
        found = _levels(graph)
        chosen = sorted(found) if strides is None else sorted(set(strides))
        missing = [stride for stride in chosen if stride not in found]
        if missing or not chosen:
            offered = ", ".join(f"{stride} ({_size(graph, name)})" for stride, name in sorted(found.items()))
            got, where = f"{missing or 'none'}", f"pyramid of {type(own).__name__}"
            raise ConfigError(explain(f"strides among {offered}", got, where, "leave strides away for all of them"))
        self.strides = tuple(chosen)
        self.nodes = {stride: found[stride] for stride in chosen}
        self.channels = {stride: int(graph[name].shape[1]) for stride, name in self.nodes.items()}
        self.maps = tap(graph, list(self.nodes.values()))

    def forward(self, inputs: Inputs) -> dict[int, Tensor]:
        """Feature maps `(batch, channels, height, width)` by stride, differentiable."""
        found = self.maps(inputs)
        return {stride: found[name] for stride, name in self.nodes.items()}


def _example(network: nn.Module, example: Tensor | None) -> Tensor:
    if example is None and isinstance(network, Predictor):
        example = torch.zeros(2, *network.signature.input_shape)
    if example is None:
        remedy = "pass example=images[:2], or a fitted form"
        raise ConfigError(explain("one batch of images as an example", "none", "Pyramid", remedy))
    if example.dim() != 4:
        where, remedy = "example of Pyramid", "take a network that reads images"
        raise ShapeError(explain("shape (batch, channels, height, width)", f"{tuple(example.shape)}", where, remedy))
    tensor = next(network.parameters(), example)
    return example.to(tensor.device)


def _read(network: nn.Module, example: Tensor) -> Graph:
    with modes_kept(network):
        return trace(network.eval(), example)


def _levels(graph: Graph) -> dict[int, str]:
    """Name of the last map by stride."""
    height, width = graph.inputs[0].shape[2:]
    found = {}
    for name in passages(graph):
        shape = graph[name].shape
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            found[max(1, round(height / shape[2]), round(width / shape[3]))] = name
    if not found:
        raise GraphError(
            explain(
                "feature maps that everything passes",
                "none",
                f"graph of {type(graph.root).__name__}",
                "pass a convolutional network; pluriform.graph.features takes any named nodes",
            )
        )
    return found


def _size(graph: Graph, name: str) -> str:
    _, channels, height, width = graph[name].shape
    return f"{channels}x{height}x{width}"

"""Any classifier as the extractor of a perceptual loss."""

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ShapeError, explain
from pluriform.graph.features import tap
from pluriform.graph.levels import level_nodes
from pluriform.graph.trace import trace
from pluriform.prediction import Predictor
from pluriform.translate.conditional import Extractor
from pluriform.translate.scale import Scale

__all__ = ["Features", "extractor_of"]


class Features(nn.Module):
    """The last feature map of a network at each resolution, from images in [-1, 1].

    Args:
        network: Takes images; what lies behind the last map is not computed, so images may have any size.
        channels: That it takes; grey images are repeated, colours are averaged.
        bounds: Of its inputs.
        example: Height and width to read the network at.

    Attributes:
        strides: Of the maps, rising.
    """

    def __init__(
        self, network: nn.Module, channels: int, bounds: tuple[float, float], example: tuple[int, int]
    ) -> None:
        super().__init__()
        device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
        graph = trace(network.eval(), torch.zeros(2, channels, *example, device=device))
        levels = level_nodes(graph)
        self.strides = tuple(sorted(levels))
        self.nodes = tuple(levels[stride] for stride in self.strides)
        self.channels, self.bounds = channels, bounds
        self.maps = tap(graph, self.nodes).requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps, the finest first."""
        low, high = self.bounds
        scaled = (images + 1) * ((high - low) / 2) + low
        if scaled.shape[1] != self.channels:
            scaled = scaled.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        found = self.maps(scaled)
        return [found[name] for name in self.nodes]


def extractor_of(module: nn.Module | None, data: Data, scale: Scale) -> Extractor | None:
    """The extractor that a network gives, `None` for none.

    Deeper maps count more, each twice as much as the one before, as published for VGG-19.

    Args:
        module: A form of one network, whose inputs and bounds are those it was fitted on, or a plain network, which is
            taken to read the target images of `data` in their bounds.
        data: Whose images are looked at.
        scale: Of the data.

    Raises:
        ShapeError: The network does not take these images.
        GraphError: It has no feature maps.
    """
    if module is None:
        return None
    network, channels = module, scale.outputs
    bounds, size = (scale.low, scale.high), (data.input_shape[1], data.input_shape[2])
    if isinstance(module, Predictor):
        network = getattr(module, "module", module)
        known = module.signature
        channels, bounds = known.input_shape[0], known.bounds or bounds
        size = (known.input_shape[1], known.input_shape[2]) if len(known.input_shape) == 3 else size
    try:
        features = Features(network, channels, bounds, size)
    except (RuntimeError, ValueError) as error:
        expected = f"a network that takes images of {channels}x{size[0]}x{size[1]}"
        got = f"{type(error).__name__}: {error}".split("\n")[0]
        remedy = "fit a classifier on such images, or leave the module out"
        raise ShapeError(explain(expected, got, f"extractor {type(network).__name__}", remedy)) from error
    count = len(features.strides)
    origin = getattr(module, "origin", {})
    name = f"{origin.get('label') or type(network).__name__}, maps at strides {features.strides}"
    return Extractor(name, features, [2.0 ** (place - count + 1) for place in range(count)])

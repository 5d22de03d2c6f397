"""Extractors for perceptual losses: a fitted classifier, VGG-19 from a file, a random network; by name and hash.

With none of them, unpaired work has no content term but `structure_loss`, and paired work has L1 and feature matching.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, CorruptFileError, DataNotFoundError, ShapeError, explain
from pluriform.graph.features import tap
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.levels import level_nodes
from pluriform.graph.trace import trace
from pluriform.prediction import Predictor

__all__ = [
    "PerceptualExtractor",
    "classifier_extractor",
    "doubling_weights",
    "random_extractor",
    "vgg19_extractor",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG19 = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512,))
LAYERS = 5
WIDTH = 32


class PerceptualExtractor(nn.Module):
    """Features of several layers from images in [-1, 1], frozen and always in evaluation mode.

    Args:
        name: Of the network.
        network: Images in its own bounds to features, shallow to deep.
        weights: Of the layers in a perceptual loss.
        channels: That the network takes; images with others are averaged and repeated.
        bounds: Of its inputs.
        hashed: Network whose weights are hashed, where `network` is only a part of it.

    Attributes:
        fingerprint: Hash of its weights.
        label: Name and hash, for checkpoints and reports.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        weights: Sequence[float | int],
        channels: int,
        bounds: tuple[float | int, float | int] = (-1.0, 1.0),
        hashed: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weights, self.channels = name, tuple(float(weight) for weight in weights), channels
        self.low, self.high = float(bounds[0]), float(bounds[1])
        self.fingerprint = fingerprint(hashed or network)
        self.network = network.requires_grad_(False).eval()

    @property
    def label(self) -> str:
        """Name and hash of the weights."""
        return f"{self.name}, weights {self.fingerprint}"

    @property
    def features(self) -> "PerceptualExtractor":
        """Itself, a function from images to features."""
        return self

    def train(self, mode: bool = True) -> "PerceptualExtractor":
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images `(batch, channels, height, width)` in [-1, 1]."""
        x = images
        if x.shape[1] != self.channels:
            x = x.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        if (self.low, self.high) != (-1.0, 1.0):
            x = (x + 1) * ((self.high - self.low) / 2) + self.low
        found = self.network(x)
        return list(found.values()) if isinstance(found, dict) else list(found)


def doubling_weights(layers: int) -> tuple[float, ...]:
    """Each layer twice the one before, the last 1: 1/16, 1/8, 1/4, 1/2, 1."""
    return tuple(2.0 ** (place - layers + 1) for place in range(layers))


def classifier_extractor(
    form: nn.Module,
    layers: Sequence[str] | None = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    bounds: tuple[float | int, float | int] | None = None,
) -> PerceptualExtractor:
    """Features of a classifier, by default the last map at every resolution.

    What lies behind the deepest layer is not computed, so images may have another size than those it was fitted on.

    Args:
        form: A fitted form of one network, or a network.
        layers: Names of nodes, as `print(trace(network, example))` tells them.
        input_shape: Channels, height and width that the network takes; those of the form where it is one.
        bounds: Of its inputs; those of the form where it is one.

    Raises:
        ConfigError: Shape or bounds are unknown.
        ShapeError: The network does not take images of that shape.
        GraphError: There is no such layer, or no feature map.

    References:
        Johnson, Alahi, Fei-Fei 2016, Perceptual Losses for Real-Time Style Transfer and Super-Resolution,
        arXiv:1603.08155; robust classifiers as Engstrom et al. 2019, arXiv:1906.00945, have them.
    """
    network = getattr(form, "module", form) if isinstance(form, Predictor) else form
    if isinstance(form, Predictor):
        shape = form.signature.input_shape
        input_shape = input_shape or (shape if len(shape) == 3 else None)
        bounds = bounds or form.signature.bounds
    if input_shape is None or bounds is None:
        remedy = "pass input_shape=(channels, height, width) and bounds=(low, high)"
        got = f"shape {input_shape}, bounds {bounds}"
        raise ConfigError(explain("a classifier of images with known bounds", got, type(form).__name__, remedy))
    modes = [(part, part.training) for part in network.modules()]
    parameter = next(network.parameters(), torch.empty(0))
    try:
        graph = trace(network.eval(), torch.zeros(2, *input_shape, device=parameter.device, dtype=parameter.dtype))
        if layers is None:
            found = level_nodes(graph)
            layers = [found[stride] for stride in sorted(found)]
        tapped = tap(graph, layers)
        copied = copy.deepcopy(tapped)  # Freezing must not reach the user's network.
    finally:
        for part, mode in modes:
            part.training = mode
    origin = getattr(form, "origin", {}).get("label") or type(network).__name__
    name = f"{origin} at {', '.join(layers)}"
    return PerceptualExtractor(name, copied, doubling_weights(len(layers)), input_shape[0], bounds, hashed=network)


class _Stages(nn.Module):
    """Stages one after another, and the output of each."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def random_extractor(channels: int, seed: int = 0, layers: int = LAYERS, width: int = WIDTH) -> PerceptualExtractor:
    """A convolutional network with weights drawn once from `seed`: usable for content, weak for what things are.

    Conv 3x3 and LeakyReLU 0.2 a layer, He-normal weights; from the second layer on after averaging over 2x2 pixels.

    Args:
        channels: Of the images.
        seed: Of the draws.
        layers: How many; images need 2^(layers - 1) pixels.
        width: Channels of the first layer; they double up to eight times as many.

    References:
        He, Wang, Hopcroft 2016, A Powerful Generative Model Using Random Weights for the Deep Image Representation,
        arXiv:1606.04801.

    Example:
        >>> [tuple(f.shape[1:]) for f in random_extractor(3, layers=2, width=4)(torch.zeros(1, 3, 8, 8))]
        [(4, 8, 8), (8, 4, 4)]
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [channels, *(width * min(2**place, 8) for place in range(layers))]
    stages = []
    for place in range(layers):
        with torch.device("meta"):
            conv = nn.Conv2d(widths[place], widths[place + 1], 3, padding=1, bias=False)
        drawn = torch.randn(conv.weight.shape, generator=generator) * (2 / (1.04 * 9 * widths[place])) ** 0.5
        conv.weight = nn.Parameter(drawn)
        pooled = [nn.AvgPool2d(2)] if place else []
        stages.append(nn.Sequential(*pooled, conv, nn.LeakyReLU(0.2)))
    return PerceptualExtractor(f"random network, seed {seed}", _Stages(stages), doubling_weights(layers), channels)


def vgg19_extractor(path: str | Path) -> PerceptualExtractor:
    """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG-19, weights 1/32, 1/16, 1/8, 1/4 and 1, from a file.

    Images are brought to the means and deviations of ImageNet, which the network was trained with; TSIT and SPADE left
    them in [-1, 1].

    Args:
        path: Weights in the layout of torchvision (`features.0.weight`, ...): `.safetensors`, or a file of
            `torch.save`, of which only tensors are read.

    Raises:
        DataNotFoundError: There is no such file.
        CorruptFileError: It cannot be read.
        ShapeError: Its weights are not those of VGG-19.

    References:
        Simonyan, Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556.
    """
    path = Path(path)
    stored = _read(path)
    stages: list[nn.Module] = []
    waiting: list[nn.Module] = [_ImageNet()]
    place, before = 0, 3
    for group, widths in enumerate(VGG19):
        if group:
            waiting.append(nn.MaxPool2d(2))
            place += 1
        for position, after in enumerate(widths):
            waiting += [_stored_conv(stored, f"features.{place}", before, after, path), nn.ReLU()]
            place, before = place + 2, after
            if position == 0:
                stages.append(nn.Sequential(*waiting))
                waiting = []
    weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    return PerceptualExtractor(f"VGG-19 of {path.name}", _Stages(stages), weights, 3, (0.0, 1.0))


class _ImageNet(nn.Module):
    """Images in [0, 1] less the means of ImageNet, over its deviations."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        remedy = "pass the path of the weights, or use a classifier or a random network"
        raise DataNotFoundError(explain("a file of VGG-19 weights", "none", str(path), remedy))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return dict(stored)
    except Exception as error:
        got, remedy = f"{type(error).__name__}", "store the state_dict alone, best as safetensors"
        raise CorruptFileError(explain("a state_dict of tensors", got, str(path), remedy)) from error


def _stored_conv(stored: dict[str, Tensor], name: str, before: int, after: int, path: Path) -> nn.Conv2d:
    weight, bias = stored.get(f"{name}.weight"), stored.get(f"{name}.bias")
    if weight is None or bias is None or tuple(weight.shape) != (after, before, 3, 3) or len(bias) != after:
        got = "none" if weight is None or bias is None else f"{tuple(weight.shape)}"
        expected = f"{name}.weight of {(after, before, 3, 3)} and its bias"
        remedy = "use the layout of torchvision's vgg19"
        raise ShapeError(explain(expected, got, str(path), remedy))
    with torch.device("meta"):
        conv = nn.Conv2d(before, after, 3, padding=1)
    conv.weight, conv.bias = nn.Parameter(weight.float().clone()), nn.Parameter(bias.float().clone())
    return conv

"""`FeatureReader`: what a fitted classifier sees in images, as vectors and as maps."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.data.signature import Bounds
from pluriform.errors import ConfigError, GraphError, ShapeError, explain
from pluriform.graph.features import tap
from pluriform.graph.head import find_head
from pluriform.graph.levels import level_nodes
from pluriform.graph.parameters import modes_kept, weights_of
from pluriform.graph.trace import trace
from pluriform.prediction import Predictor

__all__ = ["FeatureReader", "Features", "Layered"]

BATCH = 64


@dataclass(frozen=True, eq=False)
class Features:
    """What is seen in some images.

    Attributes:
        vectors: Inputs of the classifier's last layer, maps averaged over places, `(images, features)`.
        maps: The last feature map at each resolution, finest first, `(images, channels, height, width)` each.
    """

    vectors: Tensor
    maps: list[Tensor]


@runtime_checkable
class Layered(Protocol):
    """Images in [-1, 1] to feature maps of several layers, shallow to deep, as `vgg19_extractor(path)` gives them.

    Attributes:
        name: Of the network.
        fingerprint: Hash of its weights.
    """

    name: str
    fingerprint: str

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """Feature maps of images `(batch, channels, height, width)`."""
        ...


class FeatureReader:
    """Reads images with a classifier (a form of one network, or a plain network) or with an extractor of layers.

    An extractor of layers sees the images as they are, in [-1, 1]; its vectors are means of its last map. For a
    classifier images are brought to the size (bilinear, antialiased), channels (grey repeated, colours averaged) and
    bounds that it was fitted on; a plain network is taken to read the target images of `data` as they are.

    Args:
        classifier: Left unchanged.
        data: Whose images are read.

    Attributes:
        name: Of the classifier.
        facts: Name, a hash of its weights, number of features, and the rules above, plain JSON.

    Raises:
        ConfigError: A form of several networks.
        ShapeError: The network does not take these images.
    """

    def __init__(self, classifier: nn.Module, data: Data) -> None:
        like = data.train.batch(torch.arange(1))[1]
        shape, self.bounds = tuple(like.shape[1:]), data.bounds or (0.0, 1.0)
        self.given: Bounds = self.bounds
        self.device = next((tensor.device for tensor in classifier.parameters()), torch.device("cpu"))
        self.layers: Any = None
        if isinstance(classifier, Layered):
            self._read_layers(classifier, like)
            return
        network = _network(classifier)
        if isinstance(classifier, Predictor):
            shape = classifier.signature.input_shape
            self.bounds = classifier.signature.bounds or self.bounds
        if len(shape) != 3:
            raise ShapeError(explain("a classifier of images", f"inputs of shape {shape}", "extractor", "fit another"))
        self.shape = shape
        with modes_kept(network):
            graph = self._traced(network)
            levels = level_nodes(graph)
            self.strides = tuple(sorted(levels))
            self.nodes = tuple(levels[stride] for stride in self.strides)
            try:
                self.last = find_head(graph).inputs[0]
            except GraphError:
                self.last = self.nodes[-1]
            self._network, self._tap = network, tap(graph, list(dict.fromkeys((*self.nodes, self.last))))
        origin = getattr(classifier, "origin", {})
        self.name = str(origin.get("label") or type(network).__name__)
        if isinstance(classifier, Predictor):
            self.name += f" on {classifier.signature.name}"
        self.facts = self._facts(network, graph[self.last].shape)

    @torch.no_grad()
    def read(self, images: Tensor) -> Features:
        """Read images in the bounds of the data, in evaluation mode."""
        vectors: list[Tensor] = []
        maps: list[list[Tensor]] = []
        if self.layers is not None:
            return self._of_layers(images)
        with modes_kept(self._tap), modes_kept(self._network):
            self._network.eval()
            self._tap.eval()
            for part in images.split(BATCH):
                found = self._tap(self._fitted(part.to(self.device)))
                last = found[self.last].float()
                vectors.append((last.mean((2, 3)) if last.dim() == 4 else last.flatten(1)).cpu())
                maps.append([found[name].float().cpu() for name in self.nodes])
        return Features(torch.cat(vectors), [torch.cat(level) for level in zip(*maps, strict=True)])

    def _read_layers(self, extractor: Any, like: Tensor) -> None:
        """Take an extractor of layers; `like` is one image."""
        self.layers, self.bounds, self.name = extractor, (-1.0, 1.0), str(extractor.name)
        self.shape = tuple(like.shape[1:])
        maps = self._of_layers(like).maps
        self.facts = {
            "name": self.name,
            "weights": extractor.fingerprint,
            "features": int(maps[-1].shape[1]),
            "maps": [f"layer {place + 1}: {'x'.join(map(str, found.shape[1:]))}" for place, found in enumerate(maps)],
            "images": f"as they are, {self.shape[1]}x{self.shape[2]}",
        }

    @torch.no_grad()
    def _of_layers(self, images: Tensor) -> Features:
        with modes_kept(self.layers):
            self.layers.eval()
            parts = [self.layers(self._fitted(part.to(self.device))) for part in images.split(BATCH)]
        maps = [torch.cat([found.float().cpu() for found in level]) for level in zip(*parts, strict=True)]
        return Features(maps[-1].mean((2, 3)), maps)

    def _fitted(self, images: Tensor) -> Tensor:
        (low, high), (first, last) = self.given, self.bounds
        images = (images - low) * ((last - first) / (high - low)) + first
        if images.shape[1] != self.shape[0]:
            images = images.mean(1, keepdim=True).expand(-1, self.shape[0], -1, -1)
        if tuple(images.shape[2:]) != tuple(self.shape[1:]):
            size = (int(self.shape[1]), int(self.shape[2]))
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
        return images

    def _traced(self, network: nn.Module) -> Any:
        try:
            return trace(network.eval(), torch.zeros(2, *self.shape, device=self.device))
        except (RuntimeError, ValueError) as error:
            expected = f"a network that takes images of shape {self.shape}"
            got = f"{type(error).__name__}: {error}".split("\n")[0]
            raise ShapeError(
                explain(expected, got, type(network).__name__, "fit a classifier on such images")
            ) from error

    def _facts(self, network: nn.Module, shape: Any) -> dict[str, Any]:
        digest = hashlib.sha256()
        for tensor in weights_of(network).values():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {
            "name": self.name,
            "weights": digest.hexdigest()[:16],
            "features": int(shape[1]) if len(shape) == 4 else int(torch.Size(shape[1:]).numel()),
            "maps": [f"{name} at stride {stride}" for name, stride in zip(self.nodes, self.strides, strict=True)],
            "images": f"resized to {self.shape[1]}x{self.shape[2]} (bilinear, antialiased) where they differ",
        }


def _network(classifier: nn.Module) -> nn.Module:
    if not isinstance(classifier, Predictor):
        return classifier
    network = getattr(classifier, "module", None)
    if isinstance(network, nn.Module):
        return network
    expected, remedy = "a form of one network, which it holds as form.module", "pass one of its networks"
    raise ConfigError(explain(expected, type(classifier).__name__, "extractor", remedy))

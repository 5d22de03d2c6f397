"""`Segmentation`: labels the pixels of photographs, trained on the real pairs, as a ruler of translators."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pluriform.axes import Images
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.signature import Signature
from pluriform.errors import ConfigError, explain
from pluriform.forms import save_form
from pluriform.graph.fingerprint import fingerprint
from pluriform.method import FitContext, Method
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed, resident, take
from pluriform.training.loop import Loop
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment
from pluriform.translate.depth import recommended_levels
from pluriform.translate.scale import Scale
from pluriform.translate.segmentation_net import SegmentationNet

__all__ = ["Segmentation", "Segmented", "class_weights"]

BATCH = 100


class Segmented(nn.Module):
    """A fitted segmentation network: photographs in, logits of every pixel out.

    Args:
        network: Images in [-1, 1] to logits.
        signature: Facts of the data.
        scale: Between data and network.
        cost: Figures of the fit.
        history: Figures of its validations, by name.

    Attributes:
        origin: What made it, as of a `Predictor`.
    """

    def __init__(
        self,
        network: nn.Module,
        signature: Signature,
        scale: Scale,
        cost: dict[str, float | int],
        history: dict[str, list[float]],
    ) -> None:
        super().__init__()
        self.network, self.signature, self.scale = network, signature, scale
        self.cost, self.history = cost, history
        self.origin: dict[str, Any] = {}

    def forward(self, images: Images) -> Tensor:
        """Logits `(batch, classes, height, width)` of images in the bounds of the data."""
        return self.network(self.scale.picture(images))

    @property
    def label(self) -> str:
        """Name and hash of the weights."""
        return f"{self.origin.get('label') or type(self).__name__}, weights {fingerprint(self.network)}"

    def save(self, path: str | Path) -> Path:
        """Write the form to the folder `path`; read by `load_form`."""
        return save_form(self, path)


@dataclass(frozen=True)
class Segmentation(Method):
    """Train a small U-Net from the photographs of a data set to their label maps.

    Minimised is the cross-entropy of pixels over the training pairs, mirrored ones included, each class weighed by
    share^-balance of its share of the pixels: with 0 small classes are never predicted, with 1 all count alike. The
    weights are those of the least validation loss.

    Give the form to `measure_images(..., segmentation=form)`: translated images are then labelled by it, beside the
    real test images, whose score is the ceiling.

    Args:
        width: Channels at full resolution.
        halvings: Levels below it; `None` for as many as leave four pixels.
        balance: Power of the weights of classes, in [0, 1].
        mirror: Mirror photograph and label map together with this probability.
        training: How it is trained; class weights and augmentation are not for label maps.

    Example:
        >>> import pluriform as pf
        >>> ids = torch.randint(3, (12, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> data = pf.load(ids, ids.expand(-1, 3, -1, -1) / 2, task="translation", classes=("a", "b", "c"))
        >>> form = Segmentation(width=4, training=Recipe(epochs=1)).fit(None, data)
        >>> form(data.test.targets).shape[1:]
        torch.Size([3, 16, 16])
    """

    needs_module: ClassVar[bool] = False

    width: int = 16
    halvings: int | None = None
    balance: float | int = 0.5
    mirror: float | int = 0.5
    training: Recipe = field(default_factory=lambda: Recipe(epochs=40, batch_size=16, learning_rate=3e-3))

    def __post_init__(self) -> None:
        wrong = {
            "width": self.width < 1,
            "halvings": self.halvings is not None and self.halvings < 1,
            "balance": not 0 <= self.balance <= 1,
            "mirror": not 0 <= self.mirror <= 1,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            expected = f"{name} in [0, 1]" if name in ("balance", "mirror") else f"{name} of at least 1"
            raise ConfigError(explain(expected, f"{getattr(self, name)}", "Segmentation", f"change {name}"))
        if self.training.class_weights != "none" or self.training.augmentation.active:
            remedy = "leave them out; photograph and label map are mirrored together"
            got = "class weights or augmentation"
            raise ConfigError(explain("a recipe for label maps", got, "Segmentation", remedy))

    def fit(  # type: ignore[override]
        self,
        module: nn.Module | None,
        data: Data,
        *,
        seed: int = 0,
        run: str | Path | None = None,
        device: str = "auto",
    ) -> Segmented:
        """Train the network; `data` stay unchanged.

        Args:
            module: `None`: the network is drawn anew.
            data: Pairs of label maps and photographs.
            seed: Source of every random draw.
            run: Folder for checkpoints, log and the fitted form. A finished run is loaded, an unfinished one resumed.
            device: `"auto"` takes the GPU where there is one.

        Returns:
            A new module, in evaluation mode.

        Raises:
            ConfigError: The data are no pairs of label maps and photographs, or a network was given.
            DataError: The data set cannot be used.
            RunConflictError: `run` holds another configuration.
        """
        return self._fit_form(module, data, seed, run, device)

    def _check_network(self, module: nn.Module, data: Data) -> None:
        where = f"Segmentation on {data.name}"
        raise ConfigError(explain("None: the network is its own", type(module).__name__, where, "pass None"))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Segmented:
        del module
        if data.task != "translation" or not data.paired or not data.classes:
            kind = "unpaired images" if not data.paired else "pictures" if data.task == "translation" else data.task
            remedy = "name one folder label, or give classes= to load"
            where = f"Segmentation on {data.name}"
            raise ConfigError(explain("pairs of label maps and photographs", kind, where, remedy))
        scale = Scale.of(data)
        network = self._network(data, scale, context)
        feed = _PhotographFeed(data, self, scale, context)
        checked = resident(data.validation, context.device)
        weights = class_weights(data.train, scale.classes, float(self.balance)).to(context.device)

        def step(batch: Batch) -> Tensor:
            logits = network(batch.inputs)
            return F.cross_entropy(logits, batch.targets, weights, label_smoothing=self.training.label_smoothing)

        loop = Loop(
            network,
            step,
            feed,
            self.training,
            seed=context.seed,
            epochs=self.training.epochs_for(len(data.train)),
            run=context.run,
            validate=(lambda: _assess(network, checked, scale, weights)) if len(checked) else None,
            keep_best=True,
            label="segmentation",
        )
        cost = loop.run()
        return Segmented(network, data.signature, scale, cost.to_json(), loop.columns)

    def _network(self, data: Data, scale: Scale, context: FitContext) -> SegmentationNet:
        height, width = data.input_shape[1:]
        halvings = self.halvings or max(1, recommended_levels(height, width) - 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(context.seed, "network"))
            network = SegmentationNet(scale.outputs, scale.classes, width=self.width, halvings=halvings)
        return network.to(context.device)


class _PhotographFeed(Feed):
    """Batches of photographs in [-1, 1] and their label maps `(batch, height, width)`, mirrored together."""

    def __init__(self, data: Data, method: Segmentation, scale: Scale, context: FitContext) -> None:
        super().__init__(data, method.training.batch_size, context.seed, Augmentation(), context.device)
        self.scale, self.mirror = scale, method.mirror

    def _batch(self, index: Tensor, epoch: int, step: int) -> Batch:
        photographs, labels = _sides(self.split, index[0], self.scale, self.device)
        generator = torch.Generator().manual_seed(derive_seed(self.seeds[0], "mirror", epoch, step))
        mirrored = (torch.rand(len(labels), generator=generator) < self.mirror).to(self.device)
        photographs = torch.where(mirrored[:, None, None, None], photographs.flip(-1), photographs)
        return Batch(photographs, torch.where(mirrored[:, None, None], labels.flip(-1), labels), index[0])


def _sides(split: Split | StreamSplit, index: Tensor, scale: Scale, device: torch.device) -> tuple[Tensor, Tensor]:
    labels, photographs = take(split, index)
    return scale.picture(photographs.to(device)), labels[:, 0].to(device).long()


def class_weights(split: Split | StreamSplit, classes: int, balance: float) -> Tensor:
    """share^-balance of every class, over all its pixels in the split, with mean 1 over the pixels.

    Classes without a pixel have weight 0.

    Example:
        >>> maps = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]).view(1, 1, 2, 3)
        >>> class_weights(Split(maps, maps), 3, 1.0)  # Shares are 5/6 and 1/6.
        tensor([0.6000, 3.0000, 0.0000])
    """
    counts = torch.zeros(classes, dtype=torch.int64)
    for index in torch.arange(len(split)).split(BATCH):
        counts += torch.bincount(take(split, index)[0].flatten().long(), minlength=classes)
    weights = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-12) ** -balance, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


@torch.no_grad()
def _assess(network: nn.Module, split: Split | StreamSplit, scale: Scale, weights: Tensor) -> Assessment:
    """Weighted cross-entropy and accuracy of pixels, in evaluation mode."""
    network.eval()
    loss, weight, hits, pixels = 0.0, 0.0, 0, 0
    for index in torch.arange(len(split)).split(BATCH):
        photographs, labels = _sides(split, index, scale, weights.device)
        logits = network(photographs)
        loss += float(F.cross_entropy(logits, labels, weights, reduction="sum"))
        weight += float(weights[labels].sum())
        hits, pixels = hits + int((logits.argmax(1) == labels).sum()), pixels + labels.numel()
    return Assessment(torch.tensor([loss / weight]), torch.tensor([hits / pixels]))

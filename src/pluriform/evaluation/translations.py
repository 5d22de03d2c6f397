"""Pictures and curves of a fitted translator: held-out images, styles, its training, its best and its worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.signature import Bounds
from pluriform.errors import ConfigError
from pluriform.evaluation.findings import Findings
from pluriform.evaluation.pictures import coloured, palette, pictured, pngs
from pluriform.graph.parameters import modes_kept
from pluriform.metrics.images import ssim_terms
from pluriform.metrics.segmentation import confusion, pixel_accuracy
from pluriform.result import Curve, Pictures

__all__ = ["Remembering", "measure_translations"]

SIDE = 64
SHOWN = 12
STYLED = 3  # Contents that are shown in several styles.
DRAWS = 6
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
RANKED = 200  # Test images among which best and worst are sought.
ENDS = 4


@runtime_checkable
class Remembering(Protocol):
    """A fitted translator that remembers its training.

    Attributes:
        history: Mean figures of spans of equal length, by name.
        cost: `updates` of the training, among others.
        events: What was noticed.
        snapshots: Translations of a few contents over the training, uint8, `(times, contents, channels, height,
            width)`, the last at its end; `None` for none.
        moments: The updates after which they were made.
        reads_style: Whether a style image counts.
    """

    history: dict[str, list[float]]
    cost: dict[str, Any]
    events: list[dict[str, Any]]
    snapshots: Tensor | None

    @property
    def moments(self) -> list[int]:
        """The updates after which snapshots were made."""
        ...

    @property
    def reads_style(self) -> bool:
        """Whether a style image counts."""
        ...

    def translate(self, content: Tensor, style: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """One translation of every content."""
        ...

    def draw(self, content: Tensor, count: int, *, seed: int = 0) -> list[Tensor]:
        """Several translations of every content."""
        ...

    def interpolate(
        self, content: Tensor, one: Tensor, two: Tensor, shares: Sequence[float | int], *, seed: int = 0
    ) -> list[Tensor]:
        """Translations in styles between two."""
        ...


def measure_translations(form: Any, data: Data, *, segmentation: nn.Module | None = None, seed: int = 0) -> Findings:
    """What a page shows of a translator; nothing of what remembers no training, or of images of two channels or many.

    - `translation`: the first test contents, the style image of each where it counts, the outputs, the truth of pairs.
    - `styles`: the first contents in the styles of the first target images.
    - `interpolation`: styles between two target images.
    - `training`: translations of a few contents after 1/128, 1/64, ... of the training, at least one update apart.
    - `ranked`: the best and the worst of the first test images, by the labels that `segmentation` finds in the
      outputs; without it by SSIM to the truth of pairs, or of light between content and output.
    - curve `losses`: every figure of the training.

    Args:
        form: A fitted translator.
        data: Data like those it was fitted on.
        segmentation: Images to logits of the label maps.
        seed: Of noise.
    """
    if not isinstance(form, Remembering) or not len(data.test) or not pictured(tuple(_targets(data)[:1].shape[1:])):
        return Findings()
    pictures = _Pictures(form, data, seed)
    made = [*pictures.held_out(), *pictures.styles(), *pictures.interpolation(), *pictures.over_time()]
    ranked, protocol = pictures.ranked(segmentation)
    legend = [] if not data.classes else [pictures.legend()]
    told = {"ranked": protocol, "events": form.events, "seed": seed}
    return Findings((), _losses(form), {"translations": told}, (*made, *ranked, *legend))


@dataclass(frozen=True, eq=False)
class _Pictures:
    """What is shown of one form."""

    form: Any
    data: Data
    seed: int

    def held_out(self) -> list[Pictures]:
        contents, targets = _first(self.data.test, SHOWN)
        styled = self.form.reads_style
        count = min(len(contents), len(targets)) if styled else len(contents)
        contents, style = contents[:count], self._references(targets[:count]) if styled else None
        shown = {"content": contents} | ({} if style is None else {"style": style})
        shown["output"] = self.form.translate(contents, style, seed=self.seed)
        shown |= {"truth": targets} if self.data.paired else {}
        return [self._made("translation", part, images) for part, images in shown.items()]

    def styles(self) -> list[Pictures]:
        contents, targets = _first(self.data.test, max(STYLED, DRAWS))
        contents = contents[:STYLED]
        if self.form.reads_style:
            drawn = [self.form.translate(contents, style[None], seed=self.seed) for style in targets[:DRAWS]]
            more = [self._made("styles", "style", targets[:DRAWS])]
        else:
            try:
                drawn, more = self.form.draw(contents, DRAWS, seed=self.seed), []
            except ConfigError:
                return []
        images = torch.stack(drawn, 1).flatten(0, 1)
        columns = {"style": [float(place) for _ in contents for place in range(len(drawn))]}
        return [self._made("styles", "content", contents), *more, self._made("styles", "output", images, columns)]

    def interpolation(self) -> list[Pictures]:
        contents, targets = _first(self.data.test, STYLED + 2)
        if not self.form.reads_style or len(targets) < 2:
            return []
        contents, one, two = contents[:STYLED], targets[:1], targets[-1:]
        between = self.form.interpolate(contents, one, two, SHARES, seed=self.seed)
        images = torch.stack(between, 1).flatten(0, 1)
        columns = {"share": [share for _ in contents for share in SHARES]}
        return [
            self._made("interpolation", "content", contents),
            self._made("interpolation", "style", torch.cat([one, two])),
            self._made("interpolation", "output", images, columns),
        ]

    def over_time(self) -> list[Pictures]:
        kept = self.form.snapshots
        if kept is None:
            return []
        low, high = self._bounds
        updates, count = [float(update) for update in self.form.moments], kept.shape[1]
        images = kept[-len(updates) :].transpose(0, 1).flatten(0, 1).float().cpu() / 255 * (high - low) + low
        split = self.data.validation if len(self.data.validation) else self.data.train
        contents, targets = _first(split, count)
        found = [
            self._made("training", "content", contents[:count]),
            self._made("training", "output", images, {"update": updates * count}),
        ]
        return found + ([self._made("training", "truth", targets[:count])] if self.data.paired else [])

    def ranked(self, segmentation: nn.Module | None) -> tuple[list[Pictures], Mapping[str, Any]]:
        contents, targets = _first(self.data.test, RANKED)
        style = self._references(targets) if self.form.reads_style and len(targets) == len(contents) else None
        outputs = self.form.translate(contents, style, seed=self.seed)
        scores, words = self._scores(contents, outputs, targets, segmentation)
        if scores is None or len(scores) < 2 * ENDS:
            return [], {"by": "nothing" if scores is None else "too few images"}
        order = scores.argsort(descending=True, stable=True)
        chosen = torch.cat([order[:ENDS], order[-ENDS:]])
        columns = {"sample": chosen.double().tolist(), "score": scores[chosen].double().tolist()}
        shown = {"content": contents, "output": outputs} | ({"truth": targets} if self.data.paired else {})
        found = [self._made("ranked", part, images[chosen], columns) for part, images in shown.items()]
        return found, {"by": words, "images": len(scores), "mean": float(scores.mean())}

    def legend(self) -> Pictures:
        colours = palette(len(self.data.classes))[:, :, None, None].expand(-1, -1, 4, 12)
        places = [float(place) for place in range(len(colours))]
        return Pictures("classes", pngs(colours, (0.0, 1.0)), {"label": places})

    def _scores(
        self, contents: Tensor, outputs: Tensor, targets: Tensor, segmentation: nn.Module | None
    ) -> tuple[Tensor | None, str]:
        """A score of every output, more is better, and its name."""
        span = self._bounds[1] - self._bounds[0]
        if segmentation is not None and self.data.classes and self.data.paired:
            classes = len(self.data.classes)
            device = next((tensor.device for tensor in segmentation.parameters()), outputs.device)
            with torch.no_grad(), modes_kept(segmentation):
                predicted = segmentation.eval()(outputs.to(device)).argmax(1).cpu()
            truth = contents[:, 0].long()
            own = [
                pixel_accuracy(confusion(seen[None], label[None], classes))
                for seen, label in zip(predicted, truth, strict=True)
            ]
            return torch.tensor(own), "label accuracy"
        if self.data.paired:
            return ssim_terms(outputs, targets, span), "SSIM to the truth"
        if self.data.classes:
            return None, ""
        light = [images.mean(1, keepdim=True) for images in (outputs, contents)]
        return ssim_terms(light[0], light[1], span), "SSIM of light to the content"

    def _references(self, targets: Tensor) -> Tensor:
        """A style for each content: never its own truth, and of a single pair that of a training image."""
        if self.data.paired and len(targets) == 1:
            return _first(self.data.train, 1)[1]
        return targets.roll(1, 0) if self.data.paired else targets

    @property
    def _bounds(self) -> Bounds:
        return self.data.bounds or (0.0, 1.0)

    def _made(self, name: str, part: str, images: Tensor, columns: Mapping[str, list[float]] | None = None) -> Pictures:
        """Small pictures; label maps in colours, other channels than one or three as their mean."""
        bounds = self._bounds
        if part == "content" and self.data.classes:
            images, bounds = coloured(images, len(self.data.classes)), (0.0, 1.0)
        if images.shape[1] not in (1, 3):
            images = images.mean(1, keepdim=True)
        shown = pngs(images, bounds, SIDE)
        told = dict(columns or {"sample": [float(place) for place in range(len(shown))]})
        return Pictures(name, shown, told, {"part": part})


def _losses(form: Remembering) -> tuple[Curve, ...]:
    """Every figure of the training over the updates that it is a mean up to."""
    lengths = {len(values) for values in form.history.values()}
    if len(lengths) != 1 or not lengths.pop():
        return ()
    count, total = len(next(iter(form.history.values()))), float(form.cost["updates"])
    every = -(-total // count)
    updates = [min(total, every * (place + 1)) for place in range(count)]
    return (Curve("losses", {"update": updates, **form.history}),)


def _first(split: Split | StreamSplit, count: int) -> tuple[Tensor, Tensor]:
    """The first contents and targets; of unpaired sides as many as there are."""
    if isinstance(split, Split):
        return split.inputs[:count], split.targets[:count]
    return split.batch(torch.arange(min(count, len(split))))


def _targets(data: Data) -> Tensor:
    return _first(data.test, 1)[1]

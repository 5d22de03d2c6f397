"""Translated images against truth and against the other side: PSNR, SSIM, distances of features, mIoU, diversity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.data.signature import Bounds
from pluriform.errors import BoundsError, ConfigError, DivergenceError, EmptySplitError, ShapeError, explain
from pluriform.evaluation.bootstrap import Bootstrap
from pluriform.evaluation.feature_reader import FeatureReader, Features
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.pictures import pictured, pngs
from pluriform.graph.fingerprint import fingerprint
from pluriform.metrics.feature_distance import ENOUGH, frechet_distance, kernel_distance
from pluriform.metrics.images import psnr_terms, ssim_terms
from pluriform.metrics.latency import repeated
from pluriform.metrics.perceptual_distance import perceptual_terms, spread_terms
from pluriform.metrics.segmentation import confusion, mean_iou, pixel_accuracy
from pluriform.result import Measure, Pictures
from pluriform.training.seeds import derive_seed

__all__ = ["Translating", "measure_images", "measure_translator_cost"]

STYLES = 10
SPREAD_OVER = 64  # Contents of which several translations are drawn.
SHOWN = 8
READ_AT_ONCE = 256
LOOKS = 16  # Spans of contents, each translated with a seed of its own.
BATCHES = (1, 16)
MEAN_IMAGE = {"images": "mean training image"}


@runtime_checkable
class Translating(Protocol):
    """What is judged: images in, images out, inside the bounds of the data."""

    def translate(self, content: Tensor, style: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """One translation of every content."""
        ...


@dataclass(frozen=True, eq=False)
class _Sides:
    """Images in the bounds of the data, rounded as a file of 8 bits would."""

    content: Tensor
    output: Tensor
    target: Tensor


def measure_images(
    translator: Translating,
    data: Data,
    *,
    extractors: Sequence[nn.Module] = (),
    segmentation: nn.Module | None = None,
    classifier: nn.Module | None = None,
    labels: Tensor | None = None,
    styles: int = STYLES,
    seed: int = 0,
) -> Findings:
    """Judge a translator on the test split; up to 16 spans of its contents have a style and noise of their own.

    - `psnr` and `ssim` of pairs, beside the same of the mean training image, which blurred outputs resemble: a PSNR
      below that one says nothing, one above it little.
    - For each extractor `kernel_distance` and `frechet_distance` of the outputs to the target images, beside the same
      between training and test targets, the floor; and of pairs `perceptual_distance`. The names FID, KID and LPIPS are
      those of the standard networks.
    - With a segmentation network `pixel_accuracy` and `miou` of its labels of the outputs against the label maps,
      beside the same of the real photographs, the ceiling; pixels of a last class `unknown` do not count.
    - With a classifier and the true classes of the contents, `content_kept`: accuracy on the outputs.
    - Of a translator that draws, `diversity`: mean perceptual distance between translations of one content.

    Args:
        translator: A fitted translator, or anything that has `translate`, and `draw` where it knows several styles.
        data: Data like those it was fitted on.
        extractors: Classifiers, as forms or networks, or extractors of layers such as `vgg19_extractor(path)`.
        segmentation: Images to logits of the classes, `(batch, classes, height, width)`, trained on real pairs.
        classifier: Images to logits.
        labels: Class of every test content, int64.
        styles: Translations drawn of each content.
        seed: Of noise, styles, subsets and bootstrap.

    Raises:
        ConfigError: No data for translation, or a measure that they do not allow.
        EmptySplitError: No test images.
        DivergenceError: Outputs with NaN or infinity.
        ShapeError: A network gives something else than expected.
    """
    sides = _translated(translator, data, seed)
    span = _bounds(data)[1] - _bounds(data)[0]
    bootstrap = Bootstrap(seed)
    measures: list[Measure] = []
    protocol: dict[str, Any] = {
        "outputs": len(sides.output),
        "targets": len(sides.target),
        "size": "x".join(map(str, sides.output.shape[1:])),
        "rounding": "outputs and targets to 256 values",
        "looks": f"{len(_spans(sides.content))} spans of contents, each with a style and noise of its own, where drawn",
        "seed": seed,
    }
    if data.paired:
        measures += _paired(sides, data, span, bootstrap)
    for extractor in extractors:
        found, facts = _seen(FeatureReader(extractor, data), translator, sides, data, styles, seed, bootstrap)
        measures += found
        protocol.setdefault("extractors", []).append(facts)
    if segmentation is not None:
        measures += _segmented(segmentation, sides, data)
        protocol["segmentation"] = _named(segmentation)
    if classifier is not None:
        measures.append(_kept(classifier, sides, labels, bootstrap))
        protocol["classifier"] = _named(classifier)
    return Findings(tuple(measures), (), {"images": protocol}, _pictures(sides, data))


def measure_translator_cost(form: nn.Module, data: Data) -> Findings:
    """`parameters`, `macs` and `latency` of translations, and `training_seconds` where the form remembers them.

    Args:
        form: A fitted translator.
        data: Its test split gives the contents.
    """
    from torch.utils.flop_counter import FlopCounterMode

    translate = getattr(form, "translate")  # noqa: B009
    device = next((weight.device for weight in form.parameters()), torch.device("cpu"))
    contents, _ = _both_sides(data.test)
    with FlopCounterMode(display=False) as counter:
        translate(contents[:1])
    count = float(sum(weight.numel() for weight in form.parameters()))
    found = [measure("parameters", count, unit="parameters")]
    macs = counter.get_total_flops() // 2
    found += [measure("macs", float(macs), unit="MAC")] if macs else []
    for size in BATCHES:
        batch = contents[:size].repeat(-(-size // len(contents[:size])), 1, 1, 1)[:size]
        spent = sorted(repeated(lambda batch=batch: translate(batch), device))
        told = {"count": len(spent), "condition": {"batch": size}}
        found.append(measure("latency", spent[len(spent) // 2], unit="ms", **told))
    known = getattr(form, "cost", None) or {}
    if "training_seconds" in known:
        found.append(measure("training_seconds", known["training_seconds"], unit="s"))
    protocol = {"latency": "median of calls of translate after warm-up, in ms by images a call"}
    return Findings(tuple(found), (), {"cost": {**known, **protocol, "threads": torch.get_num_threads()}})


def _translated(translator: Translating, data: Data, seed: int) -> _Sides:
    if data.task != "translation":
        remedy = 'load them with task="translation"'
        raise ConfigError(explain("data for translation", data.task, data.name, remedy))
    if len(data.test) == 0:
        remedy = "load the set with a test share above 0"
        raise EmptySplitError(explain("a test split with images", "0 images", f"{data.name}.test", remedy))
    content, target = _both_sides(data.test)
    spans = _spans(content)
    drawn = getattr(translator, "references", None)
    styles = [None] * len(spans) if drawn is None else drawn(len(spans), seed=derive_seed(seed, "looks"))
    parts = [
        translator.translate(span, style, seed=derive_seed(seed, "look", number))
        for number, (span, style) in enumerate(zip(spans, styles, strict=True))
    ]
    output = torch.cat([part.detach().cpu() for part in parts])
    if not output.isfinite().all():
        count = int((~output.isfinite()).flatten(1).any(1).sum())
        got, where = f"NaN or infinity in {count} of {len(output)}", f"{type(translator).__name__} on {data.name}"
        raise DivergenceError(explain("finite images", got, where, "fit it again, at lower rates"))
    if len(output) != len(content) or output.shape[1] != target.shape[1]:
        expected = f"{len(content)} images of {target.shape[1]} channels"
        got = f"shape {tuple(output.shape)}"
        raise ShapeError(
            explain(expected, got, type(translator).__name__, "judge it on data like those it was fitted on")
        )
    bounds = _bounds(data)
    return _Sides(content, _rounded(output, bounds), _rounded(target, bounds))


def _spans(content: Tensor) -> Sequence[Tensor]:
    """One style for all would lie far from targets of many, however good each image is."""
    return content.split(-(-len(content) // LOOKS))


def _both_sides(split: Split | StreamSplit) -> tuple[Tensor, Tensor]:
    if isinstance(split, Split):
        return split.inputs, split.targets
    parts = [split.batch(index) for index in torch.arange(len(split)).split(READ_AT_ONCE)]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])


def _bounds(data: Data) -> Bounds:
    if data.bounds is None:
        raise BoundsError(explain("images with known bounds", "none", data.name, "give bounds= to load"))
    return data.bounds


def _rounded(images: Tensor, bounds: Bounds) -> Tensor:
    low, high = bounds
    return ((images.float() - low) / (high - low)).clamp(0, 1).mul(255).round().div(255) * (high - low) + low


def _paired(sides: _Sides, data: Data, span: float, bootstrap: Bootstrap) -> list[Measure]:
    _, targets = _both_sides(data.train)
    mean = _rounded(targets.mean(0, keepdim=True), _bounds(data)).expand_as(sides.target)
    found = []
    for condition, images in (({}, sides.output), (MEAN_IMAGE, mean)):
        for name, terms in (("psnr", psnr_terms), ("ssim", ssim_terms)):
            found.append(_mean(name, terms(images, sides.target, span), bootstrap, condition))
    return found


def _mean(name: str, terms: Tensor, bootstrap: Bootstrap, condition: dict[str, Any]) -> Measure:
    """The mean over images, with an interval where it is finite."""
    value = float(terms.mean())
    interval = bootstrap.means(terms[:, None])[0] if terms.isfinite().all() else None
    unit = "dB" if name == "psnr" else ""
    return measure(name, value, interval, bootstrap.words, count=len(terms), condition=condition, unit=unit)


def _seen(
    reader: FeatureReader,
    translator: Translating,
    sides: _Sides,
    data: Data,
    styles: int,
    seed: int,
    bootstrap: Bootstrap,
) -> tuple[list[Measure], dict[str, Any]]:
    """What one extractor says."""
    condition = {"extractor": reader.name}
    output, target = reader.read(sides.output), reader.read(sides.target)
    _, training = _both_sides(data.train)
    found, facts = _distances(output, target, condition, seed)
    floor = reader.read(_rounded(training, _bounds(data)))
    if len(floor.vectors) > 1:
        found += _distances(floor, target, condition | {"images": "real training images"}, seed)[0]
    if data.paired:
        found.append(_mean("perceptual_distance", perceptual_terms(output.maps, target.maps), bootstrap, condition))
    drawn = _drawn(translator, sides.content[:SPREAD_OVER], styles, seed)
    if drawn:
        spread = spread_terms([reader.read(_rounded(images, _bounds(data))).maps for images in drawn])
        found.append(_mean("diversity", spread, bootstrap, condition | {"styles": len(drawn)}))
    return found, reader.facts | facts


def _distances(
    first: Features, second: Features, condition: dict[str, Any], seed: int
) -> tuple[list[Measure], dict[str, Any]]:
    """Both distances of two sets of images."""
    fewest, width = min(len(first.vectors), len(second.vectors)), first.vectors.shape[1]
    if fewest < 2:
        return [], {"distances": "none: fewer than two images"}
    kernel = kernel_distance(first.vectors, second.vectors, seed=seed)
    frechet = frechet_distance(first.vectors, second.vectors)
    few = "" if fewest >= ENOUGH * width else f"{fewest} images, {width} features"
    facts = {
        "kernel_distance": f"cubic kernel, unbiased, mean of {kernel.subsets} subsets of {kernel.size} images, "
        f"deviation {kernel.deviation:.3g}",
        "frechet_distance": f"unreliable: {few}" if few else "reliable",
    }
    reliability = {"unreliable": few} if few else {}
    return [
        measure("kernel_distance", kernel.value, count=fewest, condition=condition),
        measure("frechet_distance", frechet, count=fewest, condition=condition | reliability),
    ], facts


def _drawn(translator: Any, content: Tensor, count: int, seed: int) -> list[Tensor]:
    """Several translations of each content, where the translator knows several."""
    if count < 2 or not hasattr(translator, "draw"):
        return []
    try:
        return [images.cpu() for images in translator.draw(content, count, seed=seed)]
    except ConfigError:
        return []


def _segmented(network: nn.Module, sides: _Sides, data: Data) -> list[Measure]:
    if not data.classes or not data.paired:
        remedy = "leave the segmentation network out"
        raise ConfigError(explain("pairs of label maps and images", "others", data.name, remedy))
    truth = sides.content[:, 0].long()
    found = []
    for condition, images in (({}, sides.output), ({"images": "real test images"}, sides.target)):
        logits = _run(network, images)
        if logits.dim() != 4 or logits.shape[1:] != (len(data.classes), *truth.shape[1:]):
            expected = f"logits (batch, {len(data.classes)}, {truth.shape[1]}, {truth.shape[2]})"
            where, remedy = type(network).__name__, "train it on the real pairs of this data set"
            raise ShapeError(explain(expected, f"{tuple(logits.shape)}", where, remedy))
        counts = confusion(logits.argmax(1), truth, len(data.classes))
        if data.classes[-1] == "unknown":
            counts[-1] = 0  # What nobody labelled is judged by nothing.
        found.append(measure("pixel_accuracy", pixel_accuracy(counts), count=len(truth), condition=condition))
        found.append(measure("miou", mean_iou(counts), count=len(truth), condition=condition))
    return found


def _named(network: nn.Module) -> str:
    """What made the network, and a hash of its weights."""
    origin = getattr(network, "origin", {})
    return f"{origin.get('label') or type(network).__name__}, weights {fingerprint(network)}"


def _kept(network: nn.Module, sides: _Sides, labels: Tensor | None, bootstrap: Bootstrap) -> Measure:
    if labels is None or len(labels) != len(sides.output):
        got = "none" if labels is None else f"{len(labels)}"
        remedy = "pass labels="
        raise ConfigError(explain(f"the classes of {len(sides.output)} contents", got, "classifier", remedy))
    predicted = _run(network, sides.output).argmax(1)
    return _mean("content_kept", (predicted == labels.cpu()).double(), bootstrap, {})


@torch.no_grad()
def _run(network: nn.Module, images: Tensor) -> Tensor:
    """Outputs in evaluation mode, on the CPU; modes come back."""
    modes = {part: part.training for part in network.modules()}
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    try:
        network.eval()
        return torch.cat([network(part.to(device)).float().cpu() for part in images.split(READ_AT_ONCE)])
    finally:
        for part, mode in modes.items():
            part.training = mode


def _pictures(sides: _Sides, data: Data) -> tuple[Pictures, ...]:
    """The first contents, outputs and truths, not chosen."""
    low, high = _bounds(data)
    shown = {"content": sides.content, "translated": sides.output} | ({"truth": sides.target} if data.paired else {})
    found = []
    for name, images in shown.items():
        ids = name == "content" and data.classes
        if pictured(tuple(images.shape[1:])):
            ends = (0.0, float(max(1, len(data.classes) - 1))) if ids else (low, high)
            columns = {"sample": [float(at) for at in range(min(SHOWN, len(images)))]}
            found.append(Pictures(name, pngs(images[:SHOWN], ends), columns))
    return tuple(found)

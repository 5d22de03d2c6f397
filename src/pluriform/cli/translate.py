"""`pluriform translate METHOD DATA`, and `pluriform translate images RUN FOLDER`."""

import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from pluriform.cli.arguments import FIT_FLAGS, described
from pluriform.cli.fit import unprefixed
from pluriform.data.describe import describe
from pluriform.data.load import load
from pluriform.data.sources.folders import picture_names
from pluriform.data.sources.label_files import Table, read_label_maps, read_table
from pluriform.data.sources.pairs import Direction
from pluriform.data.sources.pictures import Size, read_pictures
from pluriform.data.sources.places import without_other_kinds
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError, explain
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.random_judge import random_judge
from pluriform.forms import load_form
from pluriform.prediction import Translator
from pluriform.report.page import write_report
from pluriform.report.table import comparison_table
from pluriform.translate.perceptual import vgg19_extractor

__all__ = ["TRANSLATORS", "run", "translate_folder"]

TRANSLATORS = {
    "tsit": "pluriform.translate.fit:TSIT",
    "pix2pix": "pluriform.translate.rivals.pix2pix:Pix2Pix",
    "spade": "pluriform.translate.rivals.spade:SPADE",
    "cyclegan": "pluriform.translate.rivals.cyclegan:CycleGAN",
    "munit": "pluriform.translate.rivals.munit:MUNIT",
}

NETWORKS = "fitted classifier, or file of VGG-19 weights,"
SEGMENTATION = "pluriform.translate.segmentation:Segmentation"

USAGE = f"""usage: pluriform translate METHOD DATA [--size SIDE] [--direction BtoA] [--run FOLDER] [options]
       pluriform translate segmentation DATA [--size SIDE] [--run FOLDER] [options]
       pluriform translate images RUN FOLDER_OR_PICTURE --out FOLDER [--style PICTURE] [--size SIDE]

methods: {", ".join(TRANSLATORS)}

  pluriform translate tsit photographs/ --size 64 --updates 4000 --run runs/photographs
  pluriform translate pix2pix facades --size 64 --run runs/facades
  pluriform translate pix2pix side_by_side/ --direction BtoA --run runs/backwards
  pluriform translate segmentation facades --size 64 --run runs/segmentation
  pluriform translate spade facades --size 64 --segmentation runs/segmentation
  pluriform translate images runs/photographs new/ --out translated/ --style winter.jpg

Each run ends with a page, report.html; segmentation trains the network that labels photographs in it.
DATA is facades, or a folder with trainA and trainB, with photo and label (or any two names), or with pairs side by
side. The input is the folder of label maps, else the first by name, or the left half; --direction BtoA turns it round.
The same command goes on where a run was stopped. pluriform translate METHOD --help for the options.
"""


def options(name: str) -> type:
    """A dataclass of the flags of one method."""
    places = TRANSLATORS | {"segmentation": SEGMENTATION}
    if name not in places:
        known = ", ".join(["images", *places])
        raise ConfigError(explain(f"one of {known}", repr(name), "method", "name one of them"))
    module, _, attribute = places[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    sides = described(tuple[int, ...], "side of the images in pixels, or height and width; needed where they differ")
    classes = described(tuple[str, ...], "names of the classes of label maps, in id order")
    return make_dataclass(
        "Translate",
        [
            ("data", described(tyro.conf.Positional[str], "facades, or a folder of images")),
            ("size", sides, ()),
            ("classes", classes, ()),
            ("direction", described(Direction, "BtoA makes the second folder, or the right half, the input"), "AtoB"),
            ("unpaired", described(bool, "the two folders hold no pairs, whatever the names of the files"), False),
            ("extractor", described(str | None, f"{NETWORKS} whose features hold the content"), None),
            (
                "judges",
                described(
                    tuple[str, ...],
                    f"{NETWORKS} whose features tell images apart in the page, one or several; else random weights",
                ),
                (),
            ),
            ("segmentation", described(str | None, "fitted segmentation, which labels the outputs in the page"), None),
            ("run", described(str | None, "folder of the run"), None),
            *FIT_FLAGS,
            ("method", unprefixed(cls), field(default_factory=cls)),
        ],
    )


@dataclass
class Images:
    """The flags of `translate images`."""

    form: tyro.conf.Positional[str]
    """run folder, or folder of a saved translator"""
    folder: tyro.conf.Positional[str]
    """pictures, or label maps where it was fitted on those; or one of them"""
    out: Annotated[str, tyro.conf.arg(help="where to write")]
    style: Annotated[
        str | None, tyro.conf.arg(help="picture with the style; by default one of the training images")
    ] = None
    size: tuple[int, ...] = ()
    """resize to this side, or height and width, first"""
    seed: int = 0
    """of noise and, without a style picture, of the style"""


def run(words: Sequence[str]) -> None:
    """Fit a translator, or translate a folder."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return
    console = Console(stderr=True, highlight=False)
    if words[0] == "images":
        chosen = tyro.cli(Images, args=list(words[1:]), prog="pluriform translate images")
        count = translate_folder(
            load_form(chosen.form), Path(chosen.folder), Path(chosen.out), chosen.style, _size(chosen.size), chosen.seed
        )
        console.print(f"{count} images: {chosen.out}")
        return
    found: Any = tyro.cli(options(words[0]), args=list(words[1:]), prog=f"pluriform translate {words[0]}")
    named = {"size": _size(found.size), "classes": found.classes or None, "direction": found.direction}
    with _told(console):
        data = load(found.data, task="translation", seed=found.seed, paired=False if found.unpaired else None, **named)
    folder = found.run or f"runs/{words[0]}-{data.name}-seed{found.seed}"
    console.print(f"{describe(data)}; {found.method.label}")
    if words[0] == "segmentation":
        found.method.fit(None, data, seed=found.seed, run=folder, device=found.device)
        console.print(f"fitted: {folder}")
        return
    module = _network(found.extractor) if found.extractor else None
    form = found.method.fit(module, data, seed=found.seed, run=folder, device=found.device)
    console.print(f"fitted: {folder}")
    if not len(data.test):
        console.print("no test images: no page")
        return
    result = evaluate(
        form,
        data,
        seed=found.seed,
        extractors=[_network(judge) for judge in found.judges] or [random_judge(form.scale.outputs)],
        segmentation=load_form(found.segmentation) if found.segmentation else None,
        run=folder,
    )
    console.print(comparison_table([result]))
    console.print(f"page: {write_report(result, Path(folder) / 'report.html')}")


@contextmanager
def _told(console: Console) -> Iterator[None]:
    """Show what the loader tells: the layout found, and the classes of label maps."""
    logger, handler = logging.getLogger("pluriform"), _Lines(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Lines(logging.Handler):
    """Messages on the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), markup=False, soft_wrap=True)


def _network(place: str) -> nn.Module:
    """A fitted form, or VGG-19 where it is a file of weights."""
    return vgg19_extractor(place) if Path(place).is_file() else load_form(place)


def translate_folder(
    form: Any, folder: Path, out: Path, style: str | None = None, size: Size = None, seed: int = 0
) -> int:
    """Translate every picture of a folder, or one, each in its own size, into PNG files of the same names.

    Args:
        form: A fitted translator.
        folder: Pictures or label maps, or one of them. What lies below `out` is left out.
        out: Created where it is missing; outputs with other than one or three channels become `.npy`, grey ones of
            contents with more than 8 bits have 16.
        style: A picture.
        size: To resize to.
        seed: Of noise and style.

    Returns:
        How many.

    Raises:
        ConfigError: The form is no translator, or reads no style where one is given, or outputs would overwrite
            pictures of the folder or each other. Or as a ShapeError.
        DataNotFoundError: No pictures, or no style picture.
        ShapeError: A picture of a size, or with channels, that the translator does not take; names it.
        LabelError: A label map with other ids; names it.
    """
    if not isinstance(form, Translator) or not hasattr(form, "translate"):
        raise ConfigError(explain("a translator", type(form).__name__, "translate images", "fit one with TSIT"))
    translator: Any = form
    folder, names = _found(folder, out)
    names = without_other_kinds(names) if translator.signature.classes else names
    _check_names(names, folder, out)
    reference = None if style is None else _reference(translator, Path(style))
    for name in names:
        content, deep = _read(translator, folder, name, size)
        image = _translated(translator, content, reference, seed, name)
        _write(image, out / name, translator, deep)
    return len(names)


def _found(source: Path, out: Path) -> tuple[Path, list[str]]:
    """The folder of the pictures and their names in it, without those of `out`, where that lies inside."""
    if source.is_file():
        return source.parent, [source.name]
    if not source.is_dir():
        remedy = "check the path; relative ones start in the working folder"
        raise DataNotFoundError(explain("a folder of pictures, or a picture", "nothing", str(source), remedy))
    names, below, inside = picture_names(source, (".npy",)), out.resolve(), source.resolve()
    if below == inside or not below.is_relative_to(inside):
        return source, names
    own = [name for name in names if not (inside / name).is_relative_to(below)]
    if not own:
        got, remedy = "only those below --out", "add pictures, or name another --out"
        raise DataNotFoundError(explain("pictures to translate", got, str(source), remedy))
    return source, own


def _reference(form: Any, path: Path) -> Tensor:
    """The style picture."""
    if not form.reads_style:
        got, remedy = "one that reads none", "leave --style out, or fit one with a style stream"
        raise ConfigError(explain("a translator that reads styles", got, "translate images --style", remedy))
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing"
        raise DataNotFoundError(explain("a style picture", got, str(path), "give --style a picture, or leave it out"))
    pixels = read_pictures([path.name], lambda _: path.read_bytes(), deep=True)
    return _unit(pixels, form, path.name, form.scale.outputs)


def _translated(form: Any, content: Tensor, style: Tensor | None, seed: int, name: str) -> Tensor:
    """One translation; an error says of which picture, and in which size the form takes it."""
    try:
        return form.translate(content, style, seed=seed)[0]
    except (ConfigError, ShapeError) as error:
        height, width = form.signature.input_shape[-2:]
        sizes = "x".join(map(str, content.shape[2:]))
        sizes += f" in the style of one of {'x'.join(map(str, style.shape[2:]))}" if style is not None else ""
        fault = str(error).partition(" To fix: ")[0]
        remedy = f"give --size {height} {width}, the size of the images it was fitted on, or remove the picture"
        raise type(error)(f"{name}, {sizes}: {fault} To fix: {remedy}.") from error


def _check_names(names: Sequence[str], folder: Path, out: Path) -> None:
    """Raise where an output would take the place of a picture or of another output."""
    where = f"translate images {folder}"
    if out.resolve() == folder.resolve():
        got, remedy = "the folder of the pictures, which would be overwritten", "name another --out"
        raise ConfigError(explain("a folder of its own for the outputs", got, where, remedy))
    known: dict[Path, str] = {}
    for name in names:
        other = known.setdefault(Path(name).with_suffix(""), name)
        if other != name:
            got, remedy = f"{other} and {name}", "rename one of them: outputs take the name without the suffix"
            raise ConfigError(explain("pictures of different names", got, where, remedy))


def _read(form: Any, folder: Path, name: str, size: Size) -> tuple[Tensor, bool]:
    """A content, and whether it has more than 8 bits."""

    def read(picture: str) -> bytes:
        return (folder / picture).read_bytes()

    classes = form.signature.classes
    if classes:
        return read_label_maps([name], read, _table(folder, classes), size).ids, False
    pixels = read_pictures([name], read, size, deep=True)
    return _unit(pixels, form, name, form.signature.input_shape[0]), pixels.dtype != torch.uint8


def _table(folder: Path, classes: Sequence[str]) -> Table | None:
    """The classes with their colours, where the folder tells them or the one above, as of a data set's label maps."""
    found = [read_table(place, classes) for place in (folder, folder.absolute().parent)]
    return next((table for table in found if table and table.colours), found[0])


def _unit(pixels: Tensor, form: Any, name: str, channels: int) -> Tensor:
    """A picture in the bounds and with the channels of the translator."""
    low, high = form.signature.bounds or (0.0, 1.0)
    unit = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    if unit.shape[1] == 1 < channels:
        unit = unit.expand(-1, channels, -1, -1)
    if unit.shape[1] != channels:
        expected, got = f"pictures of {channels} channels", f"{unit.shape[1]}"
        raise ShapeError(explain(expected, got, name, "convert it, or remove it from the folder"))
    return unit * (high - low) + low


def _write(image: Tensor, path: Path, form: Any, deep: bool) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = form.signature.bounds or (0.0, 1.0)
    unit = ((image - low) / (high - low)).clamp(0, 1)
    if len(image) not in (1, 3):
        np.save(path.with_suffix(".npy"), unit.permute(1, 2, 0).numpy())
        return
    kind = np.uint16 if deep and len(image) == 1 else np.uint8
    values = (unit.permute(1, 2, 0).double().numpy() * np.iinfo(kind).max).round().astype(kind)
    Image.fromarray(values[..., 0] if len(image) == 1 else values).save(path.with_suffix(".png"))


def _size(sides: Sequence[int]) -> Size:
    if len(sides) > 2:
        raise ConfigError(explain("a side, or height and width", f"{len(sides)} numbers", "--size", "give one or two"))
    return None if not sides else int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))

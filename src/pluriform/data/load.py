"""`load`: a data set by name, from a folder or file, from arrays, or through a torch `Dataset`."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from pluriform.data.data import Data
from pluriform.data.options import check_options, check_task
from pluriform.data.parts import Parts, assemble
from pluriform.data.signature import Bounds, Task
from pluriform.data.sources.archives import omniglot_small, sign_digits
from pluriform.data.sources.arrays import array_parts
from pluriform.data.sources.cifar import cifar10, cifar100, cifar100_part
from pluriform.data.sources.digits import digits
from pluriform.data.sources.folders import class_folder
from pluriform.data.sources.idx import fashion_mnist, mnist, notmnist
from pluriform.data.sources.image_arrays import image_parts
from pluriform.data.sources.kmnist import kmnist
from pluriform.data.sources.npz import npz_pairs
from pluriform.data.sources.pairs import Direction, facades, paired_folder
from pluriform.data.sources.pictures import Size
from pluriform.data.sources.request import Request
from pluriform.data.sources.streams import stream_parts
from pluriform.data.sources.tables import SUFFIXES, table_parts
from pluriform.data.sources.toy import toy_1d
from pluriform.data.sources.uci import uci
from pluriform.data.sources.uci_regression import uci_regression
from pluriform.errors import ConfigError, DataNotFoundError, explain

__all__ = ["NAMES", "load"]

NAMES: dict[str, Callable[[Request], Parts]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100-part": cifar100_part,
    "digits": digits,
    "facades": facades,
    "fashion-mnist": fashion_mnist,
    "kmnist": kmnist,
    "mnist": mnist,
    "notmnist": notmnist,
    "omniglot-small": omniglot_small,
    "sign-digits": sign_digits,
    "toy-1d": toy_1d,
    "uci": uci,
    "uci-regression": uci_regression,
}
EXAMPLES = {"uci": "uci:wine", "uci-regression": "uci-regression:yacht"}


def load(
    source: Any,
    targets: Any = None,
    *,
    validation: float | int = 0.1,
    seed: int = 0,
    task: Task | None = None,
    name: str | None = None,
    target: str | None = None,
    path: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    split: int = 0,
    classes: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    standardise: bool = False,
    direction: Direction = "AtoB",
    paired: bool | None = None,
) -> Data:
    """Load a data set and split it.

    The test part is the published one where there is one, otherwise a fifth of the samples, stratified by class, that
    does not depend on `seed`: runs with different seeds are judged on the same samples. The validation part is drawn
    from the training samples, stratified and by `seed`. Pictures come as float32 in [0, 1], channels first; regression
    targets as float32 `(N, outputs)`; nothing else is rescaled unless `standardise` asks for it or the source's
    docstring says so.

    Args:
        source: A name (`digits`, `mnist`, `fashion-mnist`, `kmnist`, `notmnist`, `cifar10`, `cifar100`,
            `cifar100-part`, `sign-digits`, `omniglot-small`, `facades`, `toy-1d`, `uci:<set>`, `uci-regression:<set>`);
            a folder of class folders or of paired pictures; a `.npz`, CSV, TSV or Parquet file; inputs as an array; or
            a map-style torch `Dataset`, read on demand. Names win over folders: write `./digits` for such a folder.
        targets: With arrays, the targets; with a `Dataset`, another `Dataset` to test on.
        validation: Fraction of the training samples, or, from 1 on, how many of them.
        seed: Of the validation draw.
        task: `classification`, `regression` or `translation`; `None` to go by the targets, as the sources describe.
        name: Name of the data set in reports, where the source's own does not do.
        target: Target column of a table.
        path: Folder to look in first for a named data set, before `PLURIFORM_DATA`, the user's cache and a download.
        size: Side in pixels to resize the pictures of a folder to, or height and width; needed where they differ in
            size.
        split: Which published split of a `uci` or `uci-regression` set.
        classes: Class names in label order, for arrays, tables and streams; for a folder of label maps and pictures
            those of the ids.
        bounds: Lowest and highest legal input, for arrays, tables and streams; `None` gives [0, 1] to pictures in it.
        standardise: For arrays and tables: each feature to mean 0, deviation 1 over the training samples.
        direction: For a folder of pictures of two domains: `AtoB`, or `BtoA` to make the second domain, or the right
            half of pictures side by side, the input.
        paired: For such a folder, or two arrays of pictures: `False` where the sides are no pairs, whatever names and
            numbers; `True` where every picture must have its partner; `None` to go by these.

    Raises:
        ConfigError: An unknown name, set, split or target column, an impossible `validation`, or options that the
            source does not take.
        DataNotFoundError: The files were found nowhere; names them, every place searched and what to do.
        CorruptFileError: A file cannot be read as what it should be; names it.
        LabelError: Labels that are none of the classes.
        ShapeError: Inputs and targets that do not fit each other, or pictures of different sizes.
        NonFiniteError: A table with empty cells.
        BoundsError: Pictures that look like 0..255 without being uint8.

    Example:
        >>> data = load("digits")
        >>> len(data.train), len(data.validation), len(data.test)
        (1294, 144, 359)
    """
    named = isinstance(source, str) and _is_name(source)
    if isinstance(source, (str, Path)):
        _check_place(source, named, targets)
    sides = {"direction": direction, "paired": paired}
    options: dict[str, Any] = {"classes": None if classes is None else tuple(classes), "bounds": bounds}
    others = {"target": target, "path": path, "size": size, "split": split, "standardise": standardise}
    check_options(source, task, named, options | others | sides)
    options["task"] = task
    label = name or "arrays"
    if isinstance(source, (str, Path)):
        request = Request(str(source), None if path is None else Path(path), size, split)
        if named:
            parts = NAMES[_key(source)](request)
            check_task(task, parts.task, parts.name)
        else:
            parts = _file(Path(source), target, size, standardise, options, sides)
    elif isinstance(source, Dataset):
        parts = stream_parts(source, name or type(source).__name__, targets, **options)
    elif targets is None:
        raise ConfigError(explain("targets beside the inputs", "none", label, "write load(inputs, targets)"))
    elif task == "translation":
        parts = image_parts(source, targets, label, classes, bounds, paired)
    else:
        parts = array_parts({"train": (source, targets)}, label, standardise=standardise, **options)
    return assemble(replace(parts, name=name or parts.name), validation, seed)


def _key(source: str | Path) -> str:
    return str(source).partition(":")[0]


def _is_name(source: str) -> bool:
    """Whether it is the name of a data set; raises where it is neither that nor a path."""
    key, colon, member = source.partition(":")
    if key in NAMES and bool(member) == bool(colon) == (key in EXAMPLES):
        return True
    if Path(source).expanduser().exists() or "/" in source or "." in source or "\\" in source:
        return False
    if key in EXAMPLES:
        raise ConfigError(explain(f"{key}:<set>", repr(source), "source", f"name a set, for instance {EXAMPLES[key]}"))
    near = difflib.get_close_matches(source, NAMES, 1)
    raise ConfigError(
        explain(
            f"a name ({', '.join(NAMES)}), a folder or a file",
            repr(source),
            "source",
            f"write {near[0]!r}" if near else "check the spelling or the path",
        )
    )


def _check_place(source: str | Path, named: bool, targets: Any) -> None:
    """Refuse targets beside what brings its own, and a path with nothing there."""
    if targets is not None:
        remedy = "leave targets out, or pass the inputs as an array"
        raise ConfigError(explain("targets beside arrays only", "targets", str(source), remedy))
    place = Path(source).expanduser()
    if not named and not place.exists():
        remedy = "check the path; relative ones start in the working folder"
        raise DataNotFoundError(explain("a folder or file", "nothing", str(place.absolute()), remedy))


def _file(
    path: Path,
    target: str | None,
    size: Size,
    standardise: bool,
    options: dict[str, Any],
    sides: dict[str, Any],
) -> Parts:
    path = path.expanduser()
    name = path.resolve().name
    if path.is_dir():
        if options["task"] == "translation":
            return paired_folder(path, name, size, options["classes"], **sides)
        check_task(options["task"], "classification", f"the class folders of {name}")
        return class_folder(path, name, size)
    if path.suffix == ".npz":
        return array_parts(npz_pairs(path), name, standardise=standardise, **options)
    if path.name.lower().endswith(SUFFIXES):
        return table_parts(path, name, target, standardise=standardise, **options)
    raise ConfigError(
        explain(
            f"a folder, .npz, {', '.join(SUFFIXES)}", path.suffix or "no suffix", str(path), "convert it to one of them"
        )
    )

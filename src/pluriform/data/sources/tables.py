"""Tables with named columns: CSV and Parquet."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pluriform.data.parts import Parts
from pluriform.data.signature import Bounds, Task
from pluriform.data.sources.arrays import array_parts
from pluriform.errors import ConfigError, CorruptFileError, NonFiniteError, ShapeError, explain

__all__ = ["SUFFIXES", "table_parts"]

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".tsv", ".tsv.gz")
FEW = 20  # Whole-number targets with at most so many values are classes.
MANY = 64  # A text column with more values than this is no category.


def table_parts(
    path: Path,
    name: str,
    target: str | None,
    *,
    task: Task | None = None,
    classes: tuple[str, ...] | None = None,
    bounds: Bounds | None = None,
    standardise: bool = False,
) -> Parts:
    """A table with one target column; every other column is a feature.

    Text features become one column for each of their values (at most 64). Without `task`, targets of text or booleans,
    and whole numbers with at most 20 values, are classes; all other targets are regression.

    Raises:
        ConfigError: No target column of that name; lists the columns.
        ShapeError: A feature that is neither a number nor a category.
        NonFiniteError: An empty cell; names its column and row.
        CorruptFileError: Not a table that can be read.
    """
    frame = _read(path)
    columns = [str(column) for column in frame.columns]
    frame.columns = columns
    if target not in columns:
        raise ConfigError(
            explain(
                f"a target column among {', '.join(columns)}",
                f"target={target!r}",
                str(path),
                "give target= with one of these names",
            )
        )
    for column in columns:
        _check_filled(frame[column], column, path)
    values = frame[target].to_numpy()
    task = task or _task(values)
    features = [_feature(frame[column], column, path) for column in columns if column != target]
    if not features:
        raise ShapeError(explain("feature columns beside the target", "none", str(path), "add columns"))
    pair = (np.concatenate(features, axis=1), values)
    return array_parts({"train": pair}, name, task=task, classes=classes, bounds=bounds, standardise=standardise)


def _read(path: Path) -> Any:
    import pandas

    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        return pandas.read_csv(path, sep="\t" if ".tsv" in path.name else ",")
    except (ValueError, EOFError, zlib.error, OSError) as error:  # The errors of pandas and Arrow are ValueErrors.
        raise CorruptFileError(
            explain(
                "a CSV or Parquet table",
                f"{type(error).__name__}: {error}".strip(),
                str(path),
                "check or replace the file",
            )
        ) from error


def _check_filled(column: Any, name: str, path: Path) -> None:
    empty = column.isna().to_numpy()
    if empty.any():
        raise NonFiniteError(
            explain(
                "a value in each cell",
                f"{int(empty.sum())} empty, the first in row {int(empty.argmax())}",
                f"column {name} of {path}",
                "drop those rows or fill them in",
            )
        )


def _task(values: np.ndarray) -> Task:
    few = values.dtype.kind in "iu" and len(np.unique(values)) <= FEW
    return "classification" if few or values.dtype.kind not in "iuf" else "regression"


def _feature(column: Any, name: str, path: Path) -> np.ndarray:
    values = column.to_numpy()
    if values.dtype.kind in "iufb":
        return values.astype(np.float32)[:, None]
    kinds, codes = np.unique(values.astype(str), return_inverse=True)
    if values.dtype.kind == "M" or len(kinds) > MANY:
        raise ShapeError(
            explain(
                f"numbers, or at most {MANY} categories",
                f"{column.dtype} with {len(kinds)} values such as {str(kinds[0])!r}",
                f"column {name} of {path}",
                "drop the column or encode it as numbers",
            )
        )
    return np.eye(len(kinds), dtype=np.float32)[codes]

"""Every exception that pluriform raises on purpose, each with a built-in second parent.

    PluriformError
    ├── DataError (ValueError)             the data set itself
    │   ├── LabelError                     labels outside the classes, or only one class
    │   ├── NonFiniteError                 NaN or infinity in inputs or targets
    │   ├── EmptySplitError                a split that a step needs has no samples
    │   ├── BoundsError                    inputs outside their bounds, or bounds unknown
    │   └── DataNotFoundError (FileNotFoundError)
    ├── ShapeError (ValueError)            wrong shape, dtype or output width
    ├── ConfigError (ValueError)           a hyper-parameter or flag that cannot be
    ├── GraphError (ValueError)            an edit that the graph does not allow
    │   └── UnsupportedOpError (NotImplementedError)
    ├── SingularKernelError (ArithmeticError)
    ├── ConvergenceError (ArithmeticError) an iteration stopped short of its tolerance
    ├── MemoryBudgetError (MemoryError)    estimated before starting
    ├── DivergenceError (ArithmeticError)  training left the finite numbers
    ├── RunError (OSError)                 the run folder
    │   ├── RunConflictError               it holds another configuration
    │   ├── RunBusyError                   another process is writing it
    │   └── CorruptFileError               a file of it cannot be read
    ├── TaskError (RuntimeError)           a distributed task failed; carries its traceback
    └── MissingExtraError (ImportError)    an optional dependency is not installed

A message has four parts: what was expected, what came, where, and what to do. `explain` writes them in that order.
"""

__all__ = [
    "BoundsError",
    "ConfigError",
    "ConvergenceError",
    "CorruptFileError",
    "DataError",
    "DataNotFoundError",
    "DivergenceError",
    "EmptySplitError",
    "GraphError",
    "LabelError",
    "MemoryBudgetError",
    "MissingExtraError",
    "NonFiniteError",
    "PluriformError",
    "RunBusyError",
    "RunConflictError",
    "RunError",
    "ShapeError",
    "SingularKernelError",
    "TaskError",
    "UnsupportedOpError",
    "explain",
    "require",
]


class PluriformError(Exception):
    """Base of every deliberate error, so that one `except` catches them all."""


class DataError(PluriformError, ValueError):
    """The data set cannot be used as it is."""


class LabelError(DataError):
    """A label lies outside the classes, or there is only one class."""


class NonFiniteError(DataError):
    """Inputs or targets hold NaN or infinity."""


class EmptySplitError(DataError):
    """A split that this step needs has no samples."""


class BoundsError(DataError):
    """Inputs lie outside their bounds, or the bounds are unknown where they are needed."""


class DataNotFoundError(DataError, FileNotFoundError):
    """A data set was found in none of the places that were searched."""


class ShapeError(PluriformError, ValueError):
    """A tensor or a network has the wrong shape, dtype or output width."""


class ConfigError(PluriformError, ValueError):
    """A hyper-parameter or flag has an impossible value."""


class GraphError(PluriformError, ValueError):
    """The graph does not allow this edit."""


class UnsupportedOpError(GraphError, NotImplementedError):
    """A node has no rule here; the message names it, its source line and what is supported."""


class SingularKernelError(PluriformError, ArithmeticError):
    """A kernel matrix is not positive definite (duplicate inputs, no ridge)."""


class ConvergenceError(PluriformError, ArithmeticError):
    """An iterative solver stopped short of its tolerance; the message carries how far it came."""


class MemoryBudgetError(PluriformError, MemoryError):
    """The estimate, made before starting, exceeds the memory at hand."""


class DivergenceError(PluriformError, ArithmeticError):
    """Training left the finite numbers."""


class RunError(PluriformError, OSError):
    """A run folder cannot be used."""


class RunConflictError(RunError):
    """The run folder belongs to a different configuration; nothing was overwritten."""


class RunBusyError(RunError):
    """Another process holds the run folder."""


class CorruptFileError(RunError):
    """A file of a run, or of a data set, cannot be read as what it should be."""


class TaskError(PluriformError, RuntimeError):
    """A distributed task failed; its traceback is part of the message."""


class MissingExtraError(PluriformError, ImportError):
    """An optional dependency is not installed."""


def explain(expected: str, got: str, where: str, remedy: str) -> str:
    """The one form of a message: expected, got, where, what to do.

    Example:
        >>> explain("labels in 0..9", "label 12", "train, sample 3", "check the target column")
        'expected labels in 0..9; got label 12 (train, sample 3). To fix: check the target column.'
    """
    return f"expected {expected}; got {got} ({where}). To fix: {remedy}."


def require(record: object, fulfilled: bool, name: str, expected: str, remedy: str = "") -> None:
    """Refuse a record of settings where the field of that name is not as expected.

    Raises:
        ConfigError: It is not `fulfilled`.
    """
    if not fulfilled:
        got, where = repr(getattr(record, name)), type(record).__name__
        raise ConfigError(explain(f"{name}: {expected}", got, where, remedy or f"change {name}"))

"""What a strategy needs to know of a search space: three methods. Morphs of a network are one, a table is another.

    random(generator)        a candidate, drawn by chance
    neighbours(candidate)    what one move makes of it
    distance(a, b)           how far two candidates are apart

Any object with these is a space; nothing has to be subclassed. Candidates are hashable, and equal where they are the
same.
"""

import inspect
from collections.abc import Hashable, Sequence
from random import Random  # noqa: TID251 -- an explicit generator for spaces that ask for one
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from pluriform.errors import ConfigError, explain

__all__ = ["BatchedSpace", "Candidate", "Space", "check_candidate", "check_space", "draw"]

Candidate = Hashable


@runtime_checkable
class Space(Protocol):
    """A search space.

    Example:
        >>> class Line:
        ...     def random(self, generator): return int(generator.integers(10))
        ...     def neighbours(self, candidate): return [n for n in (candidate - 1, candidate + 1) if 0 <= n < 10]
        ...     def distance(self, a, b): return abs(a - b)
        >>> isinstance(Line(), Space)
        True
    """

    def random(self, generator: Any, /) -> Any:
        """A candidate, drawn with this `numpy.random.Generator` and nothing else.

        A space that annotates its argument as `torch.Generator` or `random.Random` is given one of those.
        """
        ...

    def neighbours(self, candidate: Any, /) -> Sequence[Any]:
        """All candidates one move away, always in the same order."""
        ...

    def distance(self, a: Any, b: Any, /) -> float | int:
        """Distance of two candidates: 0 for the same, symmetric, triangle inequality."""
        ...


@runtime_checkable
class BatchedSpace(Protocol):
    """A space that computes many distances at once; optional, for speed."""

    def distances(self, candidates: Sequence[Any], others: Sequence[Any], /) -> NDArray[np.float64]:
        """Distances of every candidate to every other, `(candidates, others)`."""
        ...


def check_space(space: object) -> None:
    """Refuse what is no space.

    Raises:
        ConfigError: It lacks a method; names it.
    """
    missing = [name for name in ("random", "neighbours", "distance") if not callable(getattr(space, name, None))]
    if missing:
        raise ConfigError(
            explain(
                "a space with random(generator), neighbours(candidate) and distance(a, b)",
                f"a {type(space).__name__} without {', '.join(missing)}",
                "search space",
                "add them; see pluriform.search.space.Space",
            )
        )


def check_candidate(candidate: object) -> None:
    """Refuse a candidate that cannot be looked up.

    Raises:
        ConfigError: It is not hashable.
    """
    try:
        hash(candidate)
    except TypeError as error:
        got, remedy = f"{candidate!r}"[:80], "use tuples, strings, numbers or frozen dataclasses as candidates"
        raise ConfigError(
            explain("a candidate that is hashable", f"{got} ({error})", "search space", remedy)
        ) from error


def draw(space: Space, generator: np.random.Generator) -> Any:
    """A random candidate, with the kind of generator that the space was written for.

    Raises:
        ConfigError: It is not hashable.
    """
    kind = _kind(space)
    given: Any = generator
    if kind == "torch.Generator":
        given = torch.Generator().manual_seed(int(generator.integers(2**62)))
    if kind == "random.Random":
        given = Random(int(generator.integers(2**62)))
    candidate = space.random(given)
    check_candidate(candidate)
    return candidate


def _kind(space: Space) -> str:
    try:
        parameters = list(inspect.signature(space.random).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    annotation = parameters[0].annotation if parameters else None
    if annotation in (torch.Generator, "torch.Generator"):
        return "torch.Generator"
    if annotation in (Random, "random.Random", "Random"):
        return "random.Random"
    return "numpy.random.Generator"

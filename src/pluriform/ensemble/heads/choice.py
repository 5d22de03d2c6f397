"""Which head generates a target: by its size and the memory that training would take, estimated first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from pluriform.ensemble.heads.chunked import ChunkedHead, chunked_count
from pluriform.ensemble.heads.full import FullHead, full_count
from pluriform.ensemble.heads.low_rank import LowRankHead, low_rank_count
from pluriform.ensemble.heads.rank_one import RankOneHead, rank_one_count
from pluriform.ensemble.target import Layer
from pluriform.errors import ConfigError, MemoryBudgetError, explain

__all__ = ["HeadChoice", "choose_head", "make_head"]

LARGEST_FULL = 125_000  # Weights that are generated up to which each has a line of its own.
BUDGET = 2 * 2**30  # Bytes that `auto` spends where the caller names no budget.
PART_OF_MEMORY = 0.9
PARAMETER_BYTES = 16  # A number, its gradient and two moments of Adam, in float32.
DRAWN_BYTES = 8  # A drawn weight and its gradient.

HEADS: Mapping[str, Callable[..., nn.Module]] = {
    "full": FullHead,
    "chunked": ChunkedHead,
    "low-rank": LowRankHead,
    "rank-one": RankOneHead,
    "last-layer": lambda layers, *rest: (FullHead if _weights(layers) <= LARGEST_FULL else LowRankHead)(layers, *rest),
}
ORDER = ("full", "low-rank", "rank-one", "last-layer")
"""From the richest to the smallest, as `auto` tries them."""


@dataclass(frozen=True)
class HeadChoice:
    """The head that was chosen, and what each would take.

    Attributes:
        mode: `full`, `chunked`, `low-rank`, `rank-one` or `last-layer`.
        parameters: Of the generators by mode, without mixer and base.
        bytes: Of training by mode: base, generators, gradients, moments of Adam, drawn weights and their gradients.
        reason: Why, in words.
    """

    mode: str
    parameters: dict[str, int]
    bytes: dict[str, int]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def choose_head(
    layers: Sequence[Layer],
    code_size: int,
    hidden: int,
    asked: str = "auto",
    budget: int | None = None,
    *,
    members: int = 16,
    last: Sequence[Layer] | None = None,
) -> HeadChoice:
    """Choose a head before anything is allocated.

    `auto` takes the first that fits of: full (targets of at most 125,000 weights), low-rank, rank-one, last-layer. It
    counts, so that the same target gets the same head everywhere, unless the machine has less than 2.2 GiB.

    Args:
        layers: All layers of the target.
        code_size: Length of a layer's code.
        hidden: Width of the generators.
        asked: `auto`, or the mode to be used.
        budget: Bytes that training may take; 2 GiB for `auto` and 90 % of the machine's memory for a mode by default.
        members: Networks drawn in a step.
        last: What `last-layer` generates; the last layer with a weight by default.

    Raises:
        ConfigError: An unknown mode, or sizes that are not positive.
        MemoryBudgetError: The asked head, or every head, takes more memory; the message names the ones that would fit.

    Example:
        >>> from pluriform.ensemble.target import layers_of
        >>> choose_head(layers_of(nn.Linear(512, 10)), 64, 512).mode
        'full'
    """
    if asked not in ("auto", *HEADS):
        expected = f"a head, 'auto' or one of {', '.join(map(repr, HEADS))}"
        raise ConfigError(explain(expected, repr(asked), "generator", "use head='auto'"))
    if code_size < 1 or hidden < 2:
        got = f"code size {code_size}, hidden width {hidden}"
        raise ConfigError(explain("a code size of 1 and a width of 2 or more", got, "generator", "use 64 and 512"))
    parameters, needed = _estimates(layers, code_size, hidden, members, _last(layers) if last is None else last)
    limit = _limit(asked, budget)
    weights = _weights(layers)
    tried = ORDER[weights > LARGEST_FULL :] if asked == "auto" else (asked,)
    fitting = [mode for mode in tried if needed[mode] <= limit]
    if not fitting:
        raise _too_large(tried, needed, limit, weights)
    mode = fitting[0]
    why = "as asked" if asked != "auto" else _why(mode, weights, limit)
    reason = f"{mode}, {why}: {parameters[mode]:,} parameters generate {weights:,} weights, {_mebibytes(needed[mode])}"
    return HeadChoice(mode, parameters, needed, reason)


def make_head(
    mode: str, layers: Sequence[Layer], code_size: int, hidden: int, deviations: Mapping[str, float | int]
) -> nn.Module:
    """The head of that mode; for `last-layer`, full or low-rank by size, pass the layers that it shall generate."""
    return HEADS[mode](layers, code_size, hidden, deviations)


def _estimates(
    layers: Sequence[Layer], code_size: int, hidden: int, members: int, last: Sequence[Layer]
) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of the generators and bytes of training, by mode."""
    parameters = {
        "full": full_count(layers, code_size, hidden),
        "chunked": chunked_count(layers, code_size, hidden),
        "low-rank": low_rank_count(layers, code_size, hidden),
        "rank-one": rank_one_count(layers, code_size, hidden),
        "last-layer": (full_count if _weights(last) <= LARGEST_FULL else low_rank_count)(last, code_size, hidden),
    }
    base = _weights(layers)
    drawn = {mode: _weights(last) if mode == "last-layer" else base for mode in parameters}
    needed = {
        mode: PARAMETER_BYTES * (count + base) + DRAWN_BYTES * members * drawn[mode]
        for mode, count in parameters.items()
    }
    return parameters, needed


def _weights(layers: Sequence[Layer]) -> int:
    return sum(layer.size for layer in layers)


def _last(layers: Sequence[Layer]) -> Sequence[Layer]:
    return [layer for layer in layers if any(len(entry.shape) > 1 for entry in layer.entries)][-1:] or layers[-1:]


def _limit(asked: str, budget: int | None) -> int:
    import psutil

    memory = int(PART_OF_MEMORY * psutil.virtual_memory().total)
    return min(memory, budget if budget is not None else BUDGET if asked == "auto" else memory)


def _why(mode: str, weights: int, limit: int) -> str:
    if mode == "full":
        return f"a target of at most {LARGEST_FULL:,} weights"
    if mode == "low-rank" and weights > LARGEST_FULL:
        return f"a target of more than {LARGEST_FULL:,} weights"
    return f"the richest that fits in {_mebibytes(limit)}"


def _too_large(tried: Sequence[str], needed: Mapping[str, int], limit: int, weights: int) -> MemoryBudgetError:
    smallest = min(tried, key=lambda mode: needed[mode])
    fits = [mode for mode in HEADS if needed[mode] <= limit]
    remedy = f"use head={' or '.join(map(repr, fits))}" if fits else "raise the budget, or make the generators narrower"
    return MemoryBudgetError(
        explain(
            f"at most {_mebibytes(limit)} for training",
            f"{_mebibytes(needed[smallest])} for the head {smallest!r}{', the smallest' if len(tried) > 1 else ''}",
            f"generator of {weights:,} weights",
            remedy,
        )
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"

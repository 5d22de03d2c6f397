"""`choose_source`: which of several sources suits a target best, by its validation split."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, EmptySplitError, explain
from pluriform.robust.transfer import Transfer
from pluriform.robust.transferred import Transferred
from pluriform.training.loss import Loss
from pluriform.training.validation import assess

__all__ = ["Rung", "SourceChoice", "choose_source"]


@dataclass(frozen=True)
class Rung:
    """One source of a ladder.

    Attributes:
        eps: Radius that the source was trained with, 0 for a standard one.
        validation_accuracy: Of the target, after the transfer.
        validation_loss: Cross-entropy in nats.
    """

    eps: float
    validation_accuracy: float
    validation_loss: float


@dataclass(frozen=True, eq=False)
class SourceChoice:
    """The source that was chosen for a target.

    Attributes:
        eps: Of the winner.
        form: The winner, transferred; the only one to be judged on the test split.
        ladder: All sources by rising eps.
    """

    eps: float
    form: Transferred
    ladder: tuple[Rung, ...]

    def __str__(self) -> str:
        """One line a source, the winner marked."""
        lines = [f"eps {rung.eps:g}: {100 * rung.validation_accuracy:.2f} %" for rung in self.ladder]
        marks = [" (chosen)" if rung.eps == self.eps else "" for rung in self.ladder]
        return "\n".join(line + mark for line, mark in zip(lines, marks, strict=True))


def choose_source(
    candidates: Mapping[float | int, nn.Module],
    data: Data,
    method: Transfer | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
) -> SourceChoice:
    """Transfer every source to the target and take the one that is most accurate on its validation split.

    Among equals the lower validation loss decides, then the smaller eps. The test split is never read.

    Args:
        candidates: A form of one network, or a network, by the eps it was trained with.
        data: The target; with a validation split.
        method: How to transfer; fixed features by default.
        seed: Of every transfer.
        device: Where to compute.

    Raises:
        ConfigError: No candidates.
        EmptySplitError: The target has no validation split.

    References:
        Salman, Ilyas, Engstrom, Kapoor, Madry 2020, Do Adversarially Robust ImageNet Models Transfer Better?,
        arXiv:2007.08489, where eps was chosen on test accuracy.
    """
    if not candidates:
        remedy = "pass {eps: form, ...}, eps 0 for a standard source"
        raise ConfigError(explain("at least one source", "none", "choose_source", remedy))
    if not len(data.validation):
        remedy = "load the data with a validation split; test accuracy must not choose"
        raise EmptySplitError(explain("validation samples", "0", f"choose_source on {data.name}", remedy))
    method = method or Transfer("fixed-feature")
    ladder: list[Rung] = []
    winner: dict[float, Transferred] = {}
    for eps in sorted(candidates):
        form = method.fit(candidates[eps], data, seed=seed, device=device)
        if not isinstance(form, Transferred):
            got = type(method).__name__
            raise ConfigError(explain("a Transfer", got, "choose_source", "pass method=Transfer(...)"))
        ladder.append(_judged(form, data, float(eps)))
        if max(ladder, key=_merit) is ladder[-1]:  # The first of equals.
            winner = {float(eps): form}
    ((eps, form),) = winner.items()
    return SourceChoice(eps, form, tuple(ladder))


def _judged(form: Transferred, data: Data, eps: float) -> Rung:
    found = assess(form, data.validation, Loss(data.task), form.device)
    accuracy = found.accuracy if found.accuracy is not None else torch.zeros(1)
    return Rung(eps, float(accuracy), float(found.loss))


def _merit(rung: Rung) -> tuple[float, float]:
    return rung.validation_accuracy, -rung.validation_loss

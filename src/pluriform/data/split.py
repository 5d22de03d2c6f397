"""Which samples go where: stratified, seeded, and a test part that no seed changes."""

import numpy as np
import torch
from torch import Tensor

from pluriform.errors import ConfigError, explain

__all__ = ["TEST_FRACTION", "TEST_SEED", "check_seed", "holdout", "quotas"]

TEST_FRACTION = 0.2
TEST_SEED = 20190  # Arbitrary and fixed: figures on test stay comparable whatever seed a run has.


def quotas(counts: np.ndarray, size: int) -> np.ndarray:
    """How many of each class to take so that `size` are taken in proportion, by largest remainders.

    A class is never emptied: at least one of its samples stays behind.

    Args:
        counts: Samples of each class, shape `(classes,)`.
        size: Samples to take in all.

    Returns:
        Samples to take of each class, each within 1 of `size * counts / counts.sum()` where no class would be emptied.
    """
    exact = counts * (size / max(int(counts.sum()), 1))
    taken = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    by_remainder = np.argsort(taken - exact, kind="stable")
    spare = by_remainder[taken[by_remainder] < counts[by_remainder] - 1]
    taken[spare[: max(size - int(taken.sum()), 0)]] += 1
    return taken


def check_seed(seed: int) -> None:
    """Refuse what no generator takes.

    Raises:
        ConfigError: It is no whole number of 0 or more.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigError(explain("a whole number of 0 or more", f"{seed!r}", "seed", "give another seed"))


def holdout(number: int, labels: Tensor | None, amount: float | int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices `0..number-1` into those that stay and those held out, both ascending.

    Args:
        number: Samples in all.
        labels: Class of each sample for a stratified draw, int64, shape `(number,)`; `None` for a plain draw.
        amount: Fraction to hold out where below 1, number of samples otherwise.
        seed: Of the draw.

    Returns:
        Indices that stay and indices held out, int64.

    Raises:
        ConfigError: `amount` is negative, or leaves nothing, or a seed below 0.
    """
    check_seed(seed)
    size = round(amount * number) if amount < 1 else int(amount)
    if amount < 0 or (size >= number > 0):
        raise ConfigError(
            explain(f"a fraction in [0, 1) or a number below {number}", f"{amount}", "validation", "give a smaller one")
        )
    order = np.random.default_rng(seed).permutation(number)
    held = np.zeros(number, dtype=bool)
    if labels is None:
        held[order[:size]] = True
    else:
        shuffled = labels.numpy()[order]
        _, shuffled, counts = np.unique(shuffled, return_inverse=True, return_counts=True)
        grouped = np.argsort(shuffled, kind="stable")
        rank = np.arange(number) - np.repeat(np.cumsum(counts) - counts, counts)
        held[order[grouped[rank < np.repeat(quotas(counts, size), counts)]]] = True
    chosen = torch.from_numpy(held)
    return torch.nonzero(~chosen).flatten(), torch.nonzero(chosen).flatten()

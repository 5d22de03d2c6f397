"""What a fit cost."""

import resource
import sys
from dataclasses import asdict, dataclass

import torch

__all__ = ["FitCost", "peak_resident"]

MEBIBYTE = 2**20


@dataclass(frozen=True)
class FitCost:
    """Figures that a form carries as `form.cost`.

    Attributes:
        training_seconds: Wall time in the training loop, in s, all sittings of a resumed run added up.
        epochs: Passes over the training split (of each member).
        steps: Optimiser steps (of each member).
        sample_passes: Forward-and-backward passes of one sample through one network.
        peak_memory: Highest resident memory of the process (CPU) or allocated memory (GPU) until the end, in MiB.
    """

    training_seconds: float
    epochs: int
    steps: int
    sample_passes: int
    peak_memory: float

    def __add__(self, other: "FitCost") -> "FitCost":
        """Cost of two trainings, one after the other; epochs and steps are the larger ones, as they count a member."""
        return FitCost(
            self.training_seconds + other.training_seconds,
            max(self.epochs, other.epochs),
            max(self.steps, other.steps),
            self.sample_passes + other.sample_passes,
            max(self.peak_memory, other.peak_memory),
        )

    def to_json(self) -> dict[str, float | int]:
        """As plain numbers by name."""
        return asdict(self)


def peak_resident(device: torch.device) -> float:
    """Peak memory so far in MiB: allocated on a GPU, resident in this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEBIBYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEBIBYTE if sys.platform == "darwin" else 1024)

"""Gradient flow of the infinite ensemble through inducing samples: Nystrom's approximation of both kernels.

With features `psi` of the NTK (`Theta ~ psi psi'`, `sum_i psi_i psi_i' = S` diagonal) and `chi` of the NNGP
(`K ~ chi chi'`), `G_t = (1 - exp(-rate (S + r) t / (N O))) / (S + r)` and `M = sum_i psi_i chi_i'`:

    mean = psi_*' G_t sum_i psi_i y_i'        variance = (k_** - |chi_*|^2) + |chi_* - M' G_t psi_*|^2

The NNGP that the inducing samples do not explain is kept as it was at the start, which is the deterministic training
conditional where the last layer alone is trained to the end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pluriform.gaussian_process.exact import Square
from pluriform.gaussian_process.nystrom import InducingProcess, condition_on_inducing, whitening
from pluriform.infinite.predict.gradient_flow import Decay, GradientFlow

__all__ = ["InducingFlow", "inducing_flow"]


@dataclass(frozen=True, eq=False)
class InducingFlow:
    """What training samples left behind in passing by; gives the flow for any ridge and time.

    Attributes:
        process: The flowing kernel, conditioned.
        root: `W` of `chi = W' k_m`; `None` where the NNGP flows.
        mixed: `M`, `(rank, rank of the NNGP)`.
    """

    process: InducingProcess
    root: Tensor | None
    mixed: Tensor | None

    def at(
        self, *, ridge: float | int = 0.0, time: float | int | None = None, learning_rate: float | int = 1.0
    ) -> GradientFlow:
        """Coefficients of mean and variance over the `m` inducing samples.

        Args:
            ridge: Absolute ridge on the flowing kernel.
            time: Training time; `None` is infinity.
            learning_rate: Speed of the flow.
        """
        process = self.process
        decay = Decay.of(time, learning_rate / (process.samples * len(process.energy)))
        left = process.projection * decay.gain(process.strengths + ridge)
        weights = left @ process.moments
        if self.root is None or self.mixed is None:
            twice = decay.twice().gain(process.strengths + ridge) * process.strengths
            spread = -(process.projection * twice) @ process.projection.T
            return GradientFlow(weights, left @ process.projection.T, spread, False)
        mixed = left @ self.mixed
        return GradientFlow(weights, mixed @ self.root.T, mixed @ mixed.T, True)


def inducing_flow(
    nngp: Square,
    ntk: Square | None,
    blocks: Iterable[tuple[Tensor, Tensor | None, Tensor]],
    *,
    kernel: Literal["ntk", "nngp"] = "ntk",
) -> InducingFlow:
    """Pass over the training samples once.

    Args:
        nngp: `K` of the inducing samples, `(m, m)`.
        ntk: `Theta` of the inducing samples; not needed for `kernel="nngp"`.
        blocks: For each block of training samples `K` and `Theta` (`None` for `kernel="nngp"`) with the inducing ones,
            `(rows, m)`, and the centred targets, `(rows, outputs)`.
        kernel: Which one flows, as in `gradient_flow`.

    Raises:
        SingularKernelError: A kernel of the inducing samples is zero or holds NaN.
        EmptySplitError: There are no blocks.

    References:
        Williams & Seeger 2001; Lee, Xiao, et al. 2019, arXiv:1902.06720 (the flow).
    """
    if kernel == "nngp" or ntk is None:
        process = condition_on_inducing(nngp, ((own, targets) for own, _, targets in blocks))
        return InducingFlow(process, None, None)
    root, crossed = whitening(nngp), torch.zeros_like(nngp, dtype=torch.float64)

    def passing() -> Iterator[tuple[Tensor, Tensor]]:
        for own, flowing, targets in blocks:
            flowing = own if flowing is None else flowing
            crossed.addmm_(flowing.double().T, own.double())
            yield flowing, targets

    process = condition_on_inducing(ntk, passing())
    return InducingFlow(process, root, process.projection.T @ crossed @ root)

"""Stochastic gradient Langevin dynamics in the space of inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs
from pluriform.energy.score import Score
from pluriform.energy.space import Space
from pluriform.errors import require
from pluriform.fused.chain import NotFused
from pluriform.fused.run import fused_chains, fused_program
from pluriform.graph.parameters import weights_of

__all__ = ["Chains", "Langevin", "langevin"]


@dataclass(frozen=True)
class Langevin:
    """u <- u + step grad_u s(u) + noise xi, in units where the inputs span [-1, 1].

    Small steps target exp(s / T) with T = noise^2 / (2 step).

    Attributes:
        steps: Steps a call.
        step: Step size.
        noise: Standard deviation of the Gaussian noise of a step.
        clamp_gradient: Largest size of an entry of the gradient; `None` leaves it.
        clamp_inputs: Whether every step ends within the bounds of the inputs.
        normalise: Divide each sample's gradient by its L2 norm, so that a step has the length `step` before clamping.

    References:
        Welling, Teh 2011, Bayesian Learning via Stochastic Gradient Langevin Dynamics.
    """

    steps: int = 20
    step: float | int = 1.0
    noise: float | int = 0.01
    clamp_gradient: float | int | None = None
    clamp_inputs: bool = True
    normalise: bool = False

    def __post_init__(self) -> None:
        clamp = self.clamp_gradient
        require(self, self.steps >= 0, "steps", "0 or more")
        require(self, 0 < self.step < float("inf"), "step", "a number above 0")
        require(self, 0 <= self.noise < float("inf"), "noise", "0 or more")
        require(self, clamp is None or clamp > 0, "clamp_gradient", "a number above 0, or None")

    @property
    def temperature(self) -> float:
        """T of the density exp(s / T) that small steps draw from."""
        return float(self.noise) ** 2 / (2 * float(self.step))

    @staticmethod
    def at_temperature(step: float, temperature: float = 1.0, steps: int = 20, **more: object) -> "Langevin":
        """With the noise that belongs to a step size and a temperature: sqrt(2 step T)."""
        return Langevin(steps, step, (2 * step * temperature) ** 0.5, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Chains:
    """Where chains went.

    Attributes:
        inputs: Last states, `(batch, *input_shape)`.
        gradient: Largest norm of a gradient of one sample, in units of [-1, 1]; a scalar.
        reach: Largest distance of an entry from the middle of the bounds, in those units; a scalar.
    """

    inputs: Inputs
    gradient: Tensor
    reach: Tensor


def langevin(
    score: Callable[[Tensor], Tensor],
    start: Inputs,
    setting: Langevin,
    space: Space,
    generator: torch.Generator | None = None,
    *,
    fused: bool = False,
) -> Chains:
    """Run chains of a score; only gradients with respect to the inputs are computed, no graph is kept between steps.

    Args:
        score: Inputs to the log-density of each, `(batch,)`, up to a constant.
        start: First states; they stay as they are.
        setting: Steps, sizes, clamps.
        space: Unit and bounds of the inputs.
        generator: Of the noise; torch's default one unless given.
        fused: Let fused kernels run all steps where they compute the network of a `Score`; they draw the noise in
            another order.
    """
    if fused and isinstance(score, Score):
        try:
            return _fused(score, start, setting, space, generator)
        except NotFused:
            pass
    state = start.detach().clone()
    unit = space.unit
    largest = torch.zeros((), device=state.device)
    for _ in range(setting.steps):
        state.requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(state).sum(), state)
        with torch.no_grad():
            gradient = gradient * unit
            largest = torch.maximum(largest, gradient.flatten(1).norm(dim=1).max())
            if setting.normalise:
                gradient = Threat("l2", 1.0).steepest(gradient)
            if setting.clamp_gradient is not None:
                gradient = gradient.clamp(-float(setting.clamp_gradient), float(setting.clamp_gradient))
            move = gradient.mul_(float(setting.step))
            if setting.noise:
                noise = torch.empty_like(state).normal_(generator=generator)
                move = move.add_(noise, alpha=float(setting.noise))
            state = state.detach().addcmul_(move, unit.expand_as(move))
            if setting.clamp_inputs:
                state = space.clamp(state)
    state = state.detach()
    return Chains(state, largest, space.reach(state))


def _fused(score: Score, start: Inputs, setting: Langevin, space: Space, generator: torch.Generator | None) -> Chains:
    weights = _stacked(score.network)
    found = fused_chains(
        fused_program(score.network, weights, start),
        weights,
        start,
        rounds=setting.steps,
        step=float(setting.step),
        noise=float(setting.noise),
        unit=space.unit,
        normalise=setting.normalise,
        most=inf if setting.clamp_gradient is None else float(setting.clamp_gradient),
        bounds=space.bounds if setting.clamp_inputs and space.bounds is not None else (-inf, inf),
        labels=score.labels,
        generator=generator,
    )
    return Chains(found.inputs, found.gradients.max(), space.reach(found.inputs))


def _stacked(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach()[None] for name, tensor in weights_of(network).items()}

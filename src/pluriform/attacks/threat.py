"""`Threat`: how far an adversary may move an input, and the geometry of that set."""

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.attacks import l1
from pluriform.axes import Inputs
from pluriform.errors import BoundsError, ConfigError, explain

__all__ = ["Threat", "check_scale", "lengths", "resolve_threat"]

SLACK = 1e-6
TINY = torch.finfo(torch.float32).tiny
SMALL = 1e-15
NORMS = ("linf", "l2", "l1")
SHARE = 0.01


@dataclass(frozen=True)
class Threat:
    """All inputs `x'` with `||x' - x|| <= eps` inside the bounds.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`, over all values of one input.
        eps: Radius in input units (8/255 for images in 0..1, 8 for images in 0..255).
        bounds: Lowest and highest legal input value; those of the form unless given.

    Raises:
        ConfigError: Unknown norm, negative or infinite radius, or bounds in the wrong order.
    """

    norm: str
    eps: float | int
    bounds: tuple[float | int, float | int] | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.norm not in NORMS:
            faults.append(("norm 'linf', 'l2' or 'l1'", f"norm {self.norm!r}", "choose one of these"))
        if not (isinstance(self.eps, Real) and math.isfinite(self.eps) and self.eps >= 0):
            faults.append(("a finite eps of at least 0", f"eps {self.eps!r}", "give the radius in input units"))
        if self.bounds is not None and not _ordered(self.bounds):
            faults.append(("bounds (lowest, highest)", f"{self.bounds}", "give two numbers, the lower first"))
        for expected, got, remedy in faults:
            raise ConfigError(explain(expected, got, "Threat", remedy))

    @property
    def box(self) -> tuple[float, float]:
        """The bounds.

        Raises:
            BoundsError: They are unknown.
        """
        if self.bounds is None:
            raise BoundsError(
                explain(
                    "a threat with bounds",
                    "bounds None",
                    "a module that carries no bounds, or a data set without any",
                    "give them: Threat(norm, eps, bounds=(lowest, highest))",
                )
            )
        return float(self.bounds[0]), float(self.bounds[1])

    def scaled(self, fraction: float | int) -> "Threat":
        """The same threat with `fraction` of its radius."""
        return replace(self, eps=self.eps * fraction)

    def project(self, moved: Inputs, inputs: Inputs) -> Inputs:
        """The nearest legal inputs: first into the ball around `inputs`, then into the box; in L1 into both at once."""
        if self.norm == "l1":
            return l1.project(moved, inputs, self.eps, *self.box)
        if self.norm == "linf":
            return moved.clamp(inputs - self.eps, inputs + self.eps).clamp_(*self.box)
        change = moved - inputs
        shrink = (self.eps / lengths(change).clamp_min(TINY)).clamp_max(1)
        return torch.addcmul(inputs, change, shrink).clamp_(*self.box)

    def steepest(self, gradient: Inputs, reach: float | int = 0.0) -> Inputs:
        """The unit step that the gradient favours: its sign, or itself over its L2 norm; 0 where it is 0.

        In L1 the signs of the largest hundredth of its values, over their number.

        Args:
            gradient: Shape `(batch, *features)`.
            reach: Length that the step is to be given; in L1 more values move where the box is too small for it, as
                in `sparsity`.

        References:
            Tramèr, Boneh, 2019, Adversarial training and robustness for multiple perturbations, arXiv 1904.13000 (L1).
        """
        if self.norm == "linf":
            return gradient.sign()
        if self.norm == "l1":
            count = self.sparsity(math.prod(gradient.shape[1:]), reach)
            return l1.sparse_sign(gradient, torch.full((len(gradient),), count, device=gradient.device))
        length = lengths(gradient)
        safe = (length > SMALL) & (length < 1 / SMALL)
        if not safe.all():  # Squares may have left the range of floats: such samples are scaled first.
            largest = gradient.flatten(1).abs().amax(1).view_as(length).clamp_min(TINY)
            gradient = gradient / largest.masked_fill(safe, 1)
            length = torch.where(safe, length, lengths(gradient).clamp_min(0.5))
        return gradient / length

    def sparsity(self, values: int, reach: float | int = 0.0) -> int:
        """How many of `values` a step moves: all, except in L1.

        There it is a hundredth, or so many that a step of length `reach` moves none by more than half the box.
        """
        if self.norm != "l1":
            return values
        fewest = math.ceil(2 * reach / (self.box[1] - self.box[0])) if reach else 1
        return min(max(math.ceil(SHARE * values), fewest), values)

    def check(self, moved: Inputs, inputs: Inputs) -> None:
        """Make sure that perturbed inputs keep to the threat.

        Raises:
            BoundsError: The norm or the box is violated, or a value is not finite.
        """
        change = (moved - inputs).double()
        far = change.flatten(1).norm({"linf": math.inf, "l2": 2, "l1": 1}[self.norm], 1)
        low, high = self.box
        worst, least, most = float(far.max()), float(moved.min()), float(moved.max())
        # float32 rounds x + eps to the precision of the largest input; L1 adds the roundings of all values.
        slack = SLACK * max(1.0, abs(low), abs(high))
        sums = max(1.0, math.sqrt(change[0].numel()) / 10) if self.norm == "l1" else 1.0
        if not (worst <= self.eps + sums * slack and least >= low - slack and most <= high + slack):
            raise BoundsError(
                explain(
                    f"perturbed inputs within {self.norm} {self.eps:g} and bounds {low:g}..{high:g}",
                    f"{self.norm} {worst:g} and values {least:g}..{most:g}",
                    "result of an attack",
                    "report this attack as faulty; its figures are void",
                )
            )


def _ordered(bounds: Any) -> bool:
    try:
        low, high = bounds
        return bool(low < high)
    except (TypeError, ValueError):
        return False


def lengths(change: Tensor) -> Tensor:
    """L2 norms of the samples, with axes of 1 to divide by."""
    return torch.linalg.vector_norm(change.flatten(1), dim=1).view(-1, *[1] * (change.ndim - 1))


def resolve_threat(module: nn.Module, threat: Threat, inputs: Inputs) -> Threat:
    """The threat with bounds, taken from the form's `signature` unless it has its own; the inputs must lie inside.

    Raises:
        BoundsError: No bounds are known, they are infinite, or the inputs leave them.
    """
    if threat.bounds is None:
        threat = replace(threat, bounds=getattr(getattr(module, "signature", None), "bounds", None))
    low, high = threat.box
    if math.isinf(high - low):
        remedy = "give the lowest and the highest value that an input can have, or has in the data"
        raise BoundsError(explain("finite bounds", f"{low:g}..{high:g}", "Threat", remedy))
    least, most = (float(end) for end in inputs.detach().aminmax())
    slack = SLACK * max(1.0, abs(low), abs(high))
    if not (least >= low - slack and most <= high + slack):
        raise BoundsError(
            explain(
                f"inputs in the bounds {low:g}..{high:g}",
                f"values {least:g}..{most:g}",
                "inputs to be attacked",
                "scale the inputs, or give the bounds they have; normalisation belongs inside the network",
            )
        )
    return threat


def check_scale(threat: Threat, values: int) -> None:
    """Notice a radius given for 0..255 where inputs are in 0..1, or the reverse.

    Args:
        threat: With bounds.
        values: Numbers in one input.

    Raises:
        ConfigError: The ball holds the whole box, or is below half a grey level of 0..255.
    """
    low, high = threat.box
    span = high - low
    reach = span * {"linf": 1.0, "l2": math.sqrt(values), "l1": values}[threat.norm]
    if threat.eps > reach:
        hint = f"; {threat.eps:g}/255 = {threat.eps / 255 * span:.4g} may be meant" if threat.eps <= 255 else ""
        raise ConfigError(
            explain(
                f"eps in input units, at most {reach:g} for bounds {low:g}..{high:g} in {threat.norm}",
                f"eps {threat.eps:g}",
                "Threat",
                f"divide eps by the scale of the inputs{hint}",
            )
        )
    if 255 <= span <= 256 and 0 < threat.eps < 0.5:
        raise ConfigError(
            explain(
                f"eps in input units, for bounds {low:g}..{high:g}",
                f"eps {threat.eps:g}, less than half a grey level",
                "Threat",
                f"multiply eps by the scale of the inputs: {threat.eps * span:.4g} may be meant",
            )
        )

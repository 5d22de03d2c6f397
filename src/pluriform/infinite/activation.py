"""Rules of elementwise nonlinearities on jointly Gaussian units.

    K' = E[phi(u) phi(v)]        Theta' = kappa Theta,  kappa = E[phi'(u) phi'(v)] = dK'/dq12

where `(u, v)` is a centred Gaussian pair with variances `q11`, `q22` and covariance `q12`. A dual gives both numbers at
once, and the one-argument form where `q11 = q22 = q12`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pluriform.infinite.kernel import Kernel, position_diagonal

__all__ = ["Abrelu", "Dual", "Erf", "Gelu", "Moments", "Sine", "activation"]


@dataclass(frozen=True, eq=False)
class Moments:
    """`value = E[phi(u) phi(v)]` and `slope = E[phi'(u) phi'(v)]`."""

    value: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Dual(ABC):
    """Closed-form second moments of one nonlinearity."""

    @abstractmethod
    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs; the three broadcast."""

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself, at variance `q`: the one-argument form."""
        return self.moments(q, q, q)

    @property
    def odd(self) -> bool:
        """Whether `phi(-x) = -phi(x)`, so that the output has mean zero."""
        return False


@dataclass(frozen=True)
class Abrelu(Dual):
    """`negative * min(x, 0) + positive * max(x, 0)`: ReLU, leaky ReLU, absolute value, identity.

        K' = (a - b)^2 s / 2 pi + kappa q12,   kappa = (a^2 + b^2) / 2 - (a - b)^2 theta / 2 pi
        s = sqrt(q11 q22 - q12^2),             theta = atan2(s, q12)

    References:
        Cho & Saul 2009, Kernel Methods for Deep Learning (arc-cosine kernels).
        Tsuchida, Roosta-Khorasani, Gallagher 2018, arXiv:1711.09090 (leaky ReLU).
    """

    negative: float = 0.0
    positive: float = 1.0

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        a, b = self.negative, self.positive
        value, slope = _Bend.apply(q12, q11, q22, (a - b) ** 2 / (2 * math.pi), (a * a + b * b) / 2)
        return Moments(value, slope)

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        slope = (self.negative**2 + self.positive**2) / 2
        return Moments(slope * q, torch.full_like(q, slope))

    @property
    def odd(self) -> bool:
        """Only the identity."""
        return self.negative == self.positive


@dataclass(frozen=True)
class Erf(Dual):
    """`erf(x)`.

        K' = 2/pi atan2(2 q12, r),   kappa = 4 / (pi r),   r = sqrt((1 + 2 q11)(1 + 2 q22) - 4 q12^2)

    References:
        Williams 1997, Computing with Infinite Networks.
    """

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        root = ((1 + 2 * q11) * (1 + 2 * q22) - 4 * q12**2).sqrt()
        return Moments(2 / math.pi * torch.atan2(2 * q12, root), 4 / (math.pi * root))

    def own(self, q: Tensor) -> Moments:
        """Moments of a unit with itself."""
        root = (1 + 4 * q).sqrt()
        return Moments(2 / math.pi * torch.atan2(2 * q, root), 4 / (math.pi * root))

    @property
    def odd(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class Gelu(Dual):
    """`x Phi(x)`, the exact GELU.

    With `D^2 = (1 + q11)(1 + q22) - q12^2`, `psi = atan2(q12, D)` and `p = (1 + q11)(1 + q22)`:

        K'    = q12/4 + [(q12^2 + q11 q22 D^2) / (p D) + q12 psi] / 2 pi
        kappa = 1/4 + psi / 2 pi + q12 / (2 pi D) [1 / D^2 + (1 - q11 q22) / p + 1]

    References:
        Tsuchida, Pearce, van der Heide, Roosta, Gallagher 2020, arXiv:2002.08517.
    """

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        p = (1 + q11) * (1 + q22)
        square = p - q12**2
        root = square.sqrt()
        psi = torch.atan2(q12, root)
        value = q12 / 4 + ((q12**2 + q11 * q22 * square) / (p * root) + q12 * psi) / (2 * math.pi)
        bracket = 1 / square + (1 - q11 * q22) / p + 1
        return Moments(value, 0.25 + psi / (2 * math.pi) + q12 * bracket / (2 * math.pi * root))


@dataclass(frozen=True)
class Sine(Dual):
    """`sin(x + phase)`; a phase of pi/2 is the cosine.

    K' = [E- - cos(2 c) E+] / 2,   kappa = [E- + cos(2 c) E+] / 2,   E+- = exp(-+q12 - (q11 + q22) / 2)
    """

    phase: float = 0.0

    def moments(self, q12: Tensor, q11: Tensor, q22: Tensor) -> Moments:
        """Moments of pairs."""
        mean = (q11 + q22) / 2
        near, far = torch.exp(q12 - mean), math.cos(2 * self.phase) * torch.exp(-q12 - mean)
        return Moments((near - far) / 2, (near + far) / 2)

    @property
    def odd(self) -> bool:
        """True for the sine itself."""
        return self.phase == 0.0


@dataclass(frozen=True, eq=False)
class _Arc:
    """`value = bend s + slope q12`, `slope = half - bend theta`, and `s`."""

    value: Tensor
    slope: Tensor
    root: Tensor


def _arc(q12: Tensor, q11: Tensor, q22: Tensor, bend: float, half: float) -> _Arc:
    norms = q11 * q22
    empty = norms <= 0
    root = safe_root(norms - q12 * q12, norms)
    theta = torch.atan2(root, torch.where(empty, 1.0, q12)) + torch.where(empty, math.pi / 2, 0.0)
    slope = torch.add(torch.full_like(theta, half), theta, alpha=-bend)
    return _Arc(torch.addcmul(bend * root, slope, q12), slope, root)


class _Bend(torch.autograd.Function):
    """The arc-cosine moments with their derivatives written out: half the passes over memory.

        dvalue = slope dq12 + bend s / 2 (dq11 / q11 + dq22 / q22)
        dslope = bend / s [dq12 - q12 / 2 (dq11 / q11 + dq22 / q22)]

    Derivatives by `1 / s` are 0 where `s` is.
    """

    @staticmethod
    def forward(ctx: Any, q12: Tensor, q11: Tensor, q22: Tensor, bend: float, half: float) -> tuple[Tensor, Tensor]:
        arc = _arc(q12, q11, q22, bend, half)
        ctx.save_for_backward(q12, q11, q22, arc.slope, arc.root)
        ctx.bend, ctx.half = bend, half
        ctx.set_materialize_grads(False)
        return arc.value, arc.slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        q12, q11, q22, slope, root = ctx.saved_tensors
        if torch.is_grad_enabled():  # second derivatives: through the formulas themselves
            arc = _arc(q12, q11, q22, ctx.bend, ctx.half)
            outputs = [part for part, g in zip((arc.value, arc.slope), gradients, strict=True) if g is not None]
            inputs = [q for q in (q12, q11, q22) if q.requires_grad]
            given = [g for g in gradients if g is not None]
            found = iter(torch.autograd.grad(outputs, inputs, given, create_graph=True, allow_unused=True))
            return *(next(found) if q.requires_grad else None for q in (q12, q11, q22)), None, None
        to_value, to_slope = gradients
        along = across = None
        if to_value is not None:
            along, across = to_value * slope, ctx.bend / 2 * to_value * root
        if to_slope is not None:
            tilt = to_slope * torch.where(root > 0, ctx.bend / root, 0.0)
            along = tilt if along is None else along + tilt
            across = -0.5 * tilt * q12 if across is None else across.addcmul_(tilt, q12, value=-0.5)
        sides = [
            _side(across, q) if needed else None
            for q, needed in zip((q11, q22), ctx.needs_input_grad[1:3], strict=True)
        ]
        return along if ctx.needs_input_grad[0] else None, *sides, None, None


def _side(across: Tensor | None, q: Tensor) -> Tensor | None:
    """The gradient for one variance: summed over what it was broadcast to, over the variance."""
    return None if across is None else across.sum_to_size(q.shape) * torch.where(q > 0, 1 / q, 0.0)


def safe_root(square: Tensor, norms: Tensor) -> Tensor:
    """Square root that is 0, with derivative 0, where no more than rounding is left of a difference of `norms`.

    Equal inputs on both sides then give exactly 0 and not the root of a rounding error.
    """
    positive = square > 8 * torch.finfo(square.dtype).eps * norms
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def activation(kernel: Kernel, dual: Dual) -> Kernel:
    """A nonlinearity applied to every unit; the input must be Gaussian.

    Where both sides are the same inputs, pairs of an input with itself take the one-argument form: rounding in
    `q11 q22 - q12^2` would leave them half the digits.
    """
    q11, q22 = kernel.point_variances()
    pairs = dual.moments(kernel.nngp, q11, q22)
    first = _own(kernel.variance1, kernel, dual)
    value, slope = pairs.value, pairs.slope
    if kernel.same:
        value = torch.diagonal_scatter(value, first.value.movedim(0, -1), 0, 0, 1)
        if kernel.ntk is not None:
            slope = torch.diagonal_scatter(slope, first.slope.movedim(0, -1), 0, 0, 1)
    return kernel.replace(
        nngp=value,
        ntk=None if kernel.ntk is None else slope * kernel.ntk,
        variance1=first.value,
        variance2=first.value if kernel.same else _own(kernel.variance2, kernel, dual).value,
        gaussian=False,
        zero_mean=kernel.zero_mean and dual.odd,
    )


def _own(moment: Tensor, kernel: Kernel, dual: Dual) -> Moments:
    """Moments of inputs with themselves: the one-argument form on equal positions."""
    axes = len(kernel.spatial)
    if kernel.layout == "diagonal" or not axes:
        return dual.own(moment)
    variances = position_diagonal(moment, 1, axes).flatten(1)
    square = moment.reshape(*variances.shape, variances.shape[1])
    pairs, own = dual.moments(square, variances[:, :, None], variances[:, None, :]), dual.own(variances)
    return Moments(
        torch.diagonal_scatter(pairs.value, own.value, 0, 1, 2).reshape(moment.shape),
        torch.diagonal_scatter(pairs.slope, own.slope, 0, 1, 2).reshape(moment.shape),
    )

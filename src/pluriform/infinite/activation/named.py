"""The nonlinearities of PyTorch by name, with their closed form or series."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.erf import Erf
from pluriform.infinite.activation.exponential import Exp
from pluriform.infinite.activation.gelu import Gelu
from pluriform.infinite.activation.piecewise import Piecewise
from pluriform.infinite.activation.polynomial import Polynomial
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.series import Hermite
from pluriform.infinite.activation.smooth import FUNCTIONS
from pluriform.infinite.activation.trigonometric import Sine

__all__ = ["NAMED", "dual_named"]

Facts = Mapping[str, Any]


def _gelu(facts: Facts) -> Dual:
    return Gelu() if facts.get("approximate", "none") == "none" else Hermite("gelu_tanh")


def _clamp(facts: Facts) -> Dual:
    low, high = (facts.get(name) for name in ("min", "max"))
    return Piecewise.clamp(-math.inf if low is None else float(low), math.inf if high is None else float(high))


def _hardtanh(facts: Facts) -> Dual:
    return Piecewise.clamp(float(facts["min_val"]), float(facts["max_val"]))


def _softshrink(facts: Facts) -> Dual:
    lambd = float(facts["lambd"])
    return Piecewise(((-lambd, 1, -1.0), (lambd, 1, 1.0)), (lambd, 1.0))


def _hardshrink(facts: Facts) -> Dual:
    lambd = float(facts["lambd"])
    return Piecewise(((-lambd, 0, lambd), (-lambd, 1, -1.0), (lambd, 0, lambd), (lambd, 1, 1.0)), (0.0, 1.0))


def _threshold(facts: Facts) -> Dual:
    at, value = float(facts["threshold"]), float(facts["value"])
    return Piecewise(((at, 0, at - value), (at, 1, 1.0)), (value,))


def _power(facts: Facts) -> Dual | None:
    exponent = facts.get("exponent")
    if "base" in facts:
        return Exp(math.log(facts["base"])) if facts["base"] > 0 else None
    if not isinstance(exponent, int | float) or exponent < 0 or exponent != int(exponent):
        return None
    return Polynomial.power(int(exponent))


NAMED: dict[str, Callable[[Facts], Dual | None]] = {
    "relu": lambda _: Abrelu(),
    "leaky_relu": lambda facts: Abrelu(float(facts.get("negative_slope", 0.01)), 1.0),
    "rrelu": lambda facts: Abrelu((float(facts["lower"]) + float(facts["upper"])) / 2, 1.0),
    "abs": lambda _: Abrelu(-1.0, 1.0),
    "erf": lambda _: Erf(),
    "gelu": _gelu,
    "sin": lambda _: Sine(),
    "cos": lambda _: Sine(math.pi / 2),
    "exp": lambda _: Exp(),
    "exp2": lambda _: Exp(math.log(2.0)),
    "square": lambda _: Polynomial.power(2),
    "pow": _power,
    "sign": lambda _: Piecewise(((0.0, 0, 2.0),), (-1.0,)),
    "clamp": _clamp,
    "hardtanh": _hardtanh,
    "relu6": lambda _: Piecewise(((0.0, 1, 1.0), (6.0, 1, -1.0))),
    "hardsigmoid": lambda _: Piecewise(((-3.0, 1, 1 / 6), (3.0, 1, -1 / 6))),
    "hardswish": lambda _: Piecewise(((-3.0, 1, -0.5), (-3.0, 2, 1 / 3), (3.0, 1, -0.5), (3.0, 2, -1 / 3))),
    "softshrink": _softshrink,
    "hardshrink": _hardshrink,
    "threshold": _threshold,
    "softplus": lambda facts: Hermite("softplus", (float(facts.get("beta", 1.0)),)),
    "elu": lambda facts: Hermite("elu", (float(facts.get("alpha", 1.0)),)),
    "celu": lambda facts: Hermite("celu", (float(facts.get("alpha", 1.0)),)),
    **{
        name: lambda _, name=name: Hermite(name)
        for name in FUNCTIONS
        if name not in ("softplus", "elu", "celu", "gelu_tanh")
    },
}


def dual_named(name: str, facts: Facts) -> Dual | None:
    """The moments of a function of `torch` or `torch.nn.functional`, or `None` where there are none here.

    Example:
        >>> dual_named("hardtanh", {"min_val": -1.0, "max_val": 2.0})
        Piecewise(terms=((-1.0, 1, 1.0), (2.0, 1, -1.0)), base=(-1.0,))
    """
    return NAMED[name](facts) if name in NAMED else None

"""How large generated weights shall be at the start, and how much of them the networks share."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from pluriform.ensemble.target import Entry, Layer
from pluriform.errors import ConfigError, explain

__all__ = ["Shares", "deviations_of", "split"]


class Shares(NamedTuple):
    """Standard deviations of the two parts of a generated tensor.

    Attributes:
        base: Of what all draws share.
        varying: Of what differs from draw to draw.
    """

    base: float
    varying: float


def deviations_of(
    layers: Sequence[Layer],
    mode: str = "hyperfan-in",
    gain: float | int = 2.0,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Standard deviation that each generated tensor shall have, base and varying part together.

    Hyperfan-in keeps the variance of activations: var(W) = c / fan_in, and var(b) = 1 / (3 fan_in), that of torch's own
    layers. (The published rule gives half of the variance to the bias, c_b = 2; an ordinary network has c_b = 1.)
    Hyperfan-out keeps the variance of gradients: var(W) = c / fan_out, var(b) = max(0, c (1 - fan_in / fan_out)).
    Scale and shift of a normalisation start at their base in every network: 0. An embedding looks up one row: 1 /
    fan_in with fan_in 1, unless the tensor is tied to a linear layer. Other tensors of two or more dimensions: those of
    `given` where it names them, else 1 / fan_in.

    Args:
        layers: Of the target.
        mode: `hyperfan-in`, `hyperfan-out`, or `given`, which takes the deviation of the given values.
        gain: c, 2 for ReLU and 1 for linear or tanh networks.
        given: Values by name, needed for `given`.

    Returns:
        By name of the tensor.

    Raises:
        ConfigError: An unknown rule, a gain that is not positive, or values that are missing.

    References:
        Chang, Flokas, Lipson 2020, Principled Weight Initialization for Hypernetworks, ICLR.

    Example:
        >>> from torch import nn
        >>> from pluriform.ensemble.target import layers_of
        >>> deviations_of(layers_of(nn.Linear(50, 3)))["weight"]
        0.2
    """
    if mode not in ("hyperfan-in", "hyperfan-out", "given") or not gain > 0:
        expected = "mode 'hyperfan-in', 'hyperfan-out' or 'given' and a positive gain"
        raise ConfigError(explain(expected, f"{mode!r}, gain {gain}", "initialisation", "use mode='hyperfan-in'"))
    values = given or {}
    entries = [entry for layer in layers for entry in layer.entries]
    missing = [entry.name for entry in entries if entry.name not in values]
    if mode == "given" and missing:
        got = f"none for {', '.join(missing[:5])}"
        raise ConfigError(
            explain("a value for every tensor", got, "initialisation", "pass given=dict(named_parameters)")
        )
    return {entry.name: _deviation(entry, mode, float(gain), values) for entry in entries}


def split(deviation: float, shared_fraction: float | int) -> Shares:
    """Share a variance between base and varying part: var(base) = rho var, var(varying) = (1 - rho) var.

    The fraction rho is then the correlation between the weights of two draws.

    Args:
        deviation: Of the whole.
        shared_fraction: rho, from 0 (draws have nothing in common) to 1 (all draws are the same).

    Raises:
        ConfigError: The fraction is not between 0 and 1.
    """
    if not 0 <= shared_fraction <= 1:
        got, remedy = f"{shared_fraction}", "use shared_fraction=0.5"
        raise ConfigError(explain("a shared fraction from 0 to 1", got, "initialisation", remedy))
    return Shares(deviation * math.sqrt(shared_fraction), deviation * math.sqrt(1 - shared_fraction))


def _deviation(entry: Entry, mode: str, gain: float, given: Mapping[str, Tensor]) -> float:
    if entry.kind in ("scale", "shift"):
        return 0.0
    if mode == "given" or (entry.kind == "other" and entry.name in given):
        return float(given[entry.name].detach().double().std(correction=0))
    if entry.kind == "embedding":
        return math.sqrt(1 / entry.fan_in)
    if entry.kind == "other":
        return math.sqrt(1 / entry.fan_in) if len(entry.shape) > 1 else 0.0
    if mode == "hyperfan-out":
        bias = max(0.0, gain * (1 - entry.fan_in / entry.fan_out))
        return math.sqrt(bias if entry.kind == "bias" else gain / entry.fan_out)
    return math.sqrt(1 / (3 * entry.fan_in) if entry.kind == "bias" else gain / entry.fan_in)

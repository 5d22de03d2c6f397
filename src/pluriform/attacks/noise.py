"""Random numbers for each sample that depend on the seed and the sample alone.

They come from hashing the sample's own values (splitmix64 in wrapping 64-bit integers), so that a sample meets the same
random start in any batch, at any place in it, on any device.
"""

import math

import torch
from jaxtyping import Int64
from torch import Tensor

from pluriform.attacks.threat import Threat, lengths
from pluriform.axes import Inputs

__all__ = ["bits", "direction", "edge", "gaussian", "start", "uniform"]

GOLDEN = -7046029254386353131
FIRST = -4658895280553007687
SECOND = -7723592293110705685


def _mix(state: Tensor) -> Tensor:
    """The output function of splitmix64 on int64, whose products wrap; shifts are made logical by masks.

    References:
        Steele, Lea, Flood, 2014, Fast splittable pseudorandom number generators, OOPSLA.
    """
    state = (state ^ ((state >> 30) & ((1 << 34) - 1))) * FIRST
    state = (state ^ ((state >> 27) & ((1 << 37) - 1))) * SECOND
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def bits(inputs: Inputs, count: int, seed: int, stream: int = 0) -> Int64[Tensor, "batch count"]:
    """`count` random 64-bit integers for each sample.

    Args:
        inputs: The samples that the draw belongs to.
        count: Integers a sample.
        seed: Source of the draw.
        stream: Tells several draws for the same sample and seed apart.
    """
    values = inputs.flatten(1).float().contiguous().view(torch.int32).long()
    place = torch.arange(1, max(values.shape[1], count) + 1, device=inputs.device) * GOLDEN
    state = _mix(values + place[: values.shape[1]]).sum(1, keepdim=True)
    sample = _mix(state + (seed + 1) * 0x632BE59BD9B4E019 % 2**63)
    return _mix(_mix(sample + stream * 0x2545F4914F6CDD1D % 2**63) + place[:count])


def uniform(inputs: Inputs, seed: int, stream: int = 0) -> Inputs:
    """Numbers in [0, 1) shaped like `inputs`; arguments as in `bits`."""
    drawn = bits(inputs, math.prod(inputs.shape[1:]), seed, stream)
    return (((drawn >> 40) & ((1 << 24) - 1)).double() / 2**24).to(inputs.dtype).view_as(inputs)


def gaussian(inputs: Inputs, seed: int, stream: int = 0) -> Inputs:
    """Standard normal numbers shaped like `inputs`, by Box and Muller."""
    radius = (-2 * (1 - uniform(inputs, seed, 2 * stream).double()).log()).sqrt()
    return (radius * (2 * math.pi * uniform(inputs, seed, 2 * stream + 1).double()).cos()).to(inputs.dtype)


def start(inputs: Inputs, threat: Threat, seed: int, stream: int = 0) -> Inputs:
    """A random legal start: uniform in the box of Linf; in L2 and L1 a random direction of uniform random radius."""
    if threat.norm == "linf":
        return threat.project(inputs + threat.eps * (2 * uniform(inputs, seed, stream) - 1), inputs)
    radius = uniform(inputs, seed, 4 * stream + 2).flatten(1)[:, 0].view(-1, *[1] * (inputs.ndim - 1))
    if threat.norm == "l1":
        return inputs + radius * (edge(inputs, threat, seed, stream) - inputs)
    return threat.project(inputs + threat.eps * radius * threat.steepest(gaussian(inputs, seed, 2 * stream)), inputs)


def edge(inputs: Inputs, threat: Threat, seed: int, stream: int = 0) -> Inputs:
    """A random start on the edge of the ball, clamped to the box, as APGD takes it.

    Linf: uniform noise whose largest value is `eps`. L2: a random direction of length `eps`. L1: the point of ball and
    box nearest to normal noise, which is sparse.

    References:
        Croce, Hein, 2020, arXiv 2003.01690 (Linf, L2); 2021, arXiv 2103.01208 (L1).
    """
    if threat.norm == "linf":
        noise = 2 * uniform(inputs, seed, stream) - 1
        largest = noise.flatten(1).abs().amax(1).view(-1, *[1] * (inputs.ndim - 1))
        return threat.project(inputs + threat.eps * (noise / largest), inputs)
    noise = gaussian(inputs, seed, 2 * stream)
    if threat.norm == "l1":
        low, high = threat.box
        return threat.project(inputs + (high - low) * noise, inputs)
    return threat.project(inputs + threat.eps * threat.steepest(noise), inputs)


def direction(
    gradient: Inputs, inputs: Inputs, threat: Threat, seed: int, stream: int = 0, reach: float | int = 0.0
) -> Inputs:
    """The steepest direction; in L2 and L1 a random one for samples whose gradient is exactly zero, instead of NaN."""
    if threat.norm == "linf" or lengths(gradient).all():
        return threat.steepest(gradient, reach)
    dead = gradient.flatten(1).eq(0).all(1)
    random = gaussian(inputs, seed, stream)
    return threat.steepest(torch.where(dead.view(-1, *[1] * (gradient.ndim - 1)), random, gradient), reach)

"""Where chains begin: uniform noise, or a Gaussian for each class that is fitted to the data."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.data.data import Data
from pluriform.energy.space import Space, training_samples

__all__ = ["GaussianStart", "Start", "UniformStart", "fitted_start"]

RANK = 128
SAMPLES = 1000  # Of a class.
FLOOR = 1e-4  # Variance added, in units of [-1, 1], as published.


class Start(nn.Module, ABC):
    """A distribution of first states."""

    space: Space

    @abstractmethod
    def draw(self, labels: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """One state a label, `(batch, *input_shape)`; distributions that know no classes ignore the labels."""


class UniformStart(Start):
    """Uniform within the bounds.

    Args:
        space: Bounded.
        shape: Of one input.
    """

    def __init__(self, space: Space, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.space, self.shape = space, shape

    def draw(self, labels: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """As the base class says."""
        low, high = self.space.bounds or (0.0, 1.0)
        room = self.space.unit.new_empty(len(labels), *self.shape)
        return room.uniform_(low, high, generator=generator)


class GaussianStart(Start):
    """A Gaussian for each class: its mean, the largest principal axes, and the rest of each entry's variance.

    Args:
        space: Draws are clamped to its bounds.
        means: `(class, *input_shape)`.
        factors: `(class, rank, features)`, scaled axes.
        rest: `(class, features)`, standard deviations beside them.

    References:
        Yang, Ji 2021, JEM++: Improved Techniques for Training JEM, arXiv:2109.09032 (with full covariances).
    """

    means: Tensor
    factors: Tensor
    rest: Tensor

    def __init__(self, space: Space, means: Tensor, factors: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.space = space
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)
        self.register_buffer("rest", rest)

    def draw(self, labels: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """As the base class says."""
        labels = labels.to(self.means.device)
        found = self.means.new_empty(len(labels), *self.means.shape[1:])
        axes = found.new_empty(len(labels), self.factors.shape[1]).normal_(generator=generator)
        rest = found.new_empty(len(labels), self.rest.shape[1]).normal_(generator=generator)
        for label in labels.unique():
            own = labels == label
            moved = axes[own] @ self.factors[label] + rest[own] * self.rest[label]
            found[own] = self.means[label] + moved.view(-1, *self.means.shape[1:])
        return self.space.clamp(found)


def fitted_start(data: Data, space: Space) -> GaussianStart:
    """The Gaussian of each class from at most 1,000 of its training samples; all samples serve a class without any."""
    samples, shape = training_samples(data), data.input_shape
    unit = space.unit.detach().cpu().expand(shape).flatten()
    columns = []
    for label in range(data.outputs):
        own = (samples.targets == label).nonzero().flatten()
        own = own if len(own) else torch.arange(len(samples))
        index = own[torch.linspace(0, len(own) - 1, min(SAMPLES, len(own))).long()]
        inputs = samples.inputs[index].flatten(1).float().cpu()
        mean = inputs.mean(0)
        factor = _principal_axes(inputs - mean)
        left = (inputs - mean).square().mean(0) - factor.square().sum(0)
        columns.append((mean.view(shape), factor, (left.clamp(min=0) + FLOOR * unit.square()).sqrt()))
    return GaussianStart(space, *(torch.stack(column).to(unit.dtype) for column in zip(*columns, strict=True)))


def _principal_axes(moved: Tensor) -> Tensor:
    """Largest principal axes times their deviations, `(rank, features)`, from the smaller of both products.

    Constant features are left out, and sums run in float64: their many equal eigenvalues stop the algorithm otherwise.
    """
    samples, features = moved.shape
    rank = min(RANK, features)
    varies = moved.abs().amax(0) > 0
    exact = moved[:, varies].double()
    if samples >= exact.shape[1]:
        values, axes = torch.linalg.eigh(exact.T @ exact / samples)
        found = (values.clamp(min=0).sqrt() * axes).T[-rank:]
    else:
        _, sides = torch.linalg.eigh(exact @ exact.T / samples)
        found = (sides.T @ exact)[-rank:] / samples**0.5  # A row has the length of its deviation.
    factor = torch.zeros(rank, features, dtype=moved.dtype)
    factor[rank - len(found) :, varies] = found.to(moved.dtype)
    return factor

"""The Gaussian around the iterates of stochastic gradient descent: collected while it runs, then drawn from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs, Logits

__all__ = ["Collector", "IterateSource"]

LEAST_VARIANCE = 1e-30


class Collector(nn.Module):
    """A network with the moments of its past weights, as buffers, so that a checkpoint carries them.

    With theta_t the trainable weights at collection t, as one vector: the running mean, the sum of squared deviations
    (by Welford's update, which unlike a mean of squares loses no digits), and the last `rank` columns theta_t - mean_t,
    mean_t the mean up to then.

    Args:
        network: The network, on its device.
        rank: Columns to keep.
        every: Steps between collections.
    """

    mean: Tensor
    squares: Tensor
    columns: Tensor
    steps: Tensor
    count: Tensor

    def __init__(self, network: nn.Module, rank: int, every: int) -> None:
        super().__init__()
        self.network, self.rank, self.every = network, rank, every
        weights = self._weights()
        self.register_buffer("mean", torch.zeros_like(weights))
        self.register_buffer("squares", torch.zeros_like(weights))
        self.register_buffer("columns", weights.new_zeros(rank, len(weights)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, inputs: Inputs) -> Logits:
        """Outputs of the network."""
        return self.network(inputs)

    @torch.no_grad()
    def _weights(self) -> Tensor:
        return torch.cat([own.flatten() for own in self.network.parameters() if own.requires_grad])

    def before_step(self) -> None:
        """Count a step that is about to be made; collect where `every` steps have been made since the last time."""
        if int(self.steps) and int(self.steps) % self.every == 0:
            self.collect()
        self.steps += 1

    @torch.no_grad()
    def collect(self) -> None:
        """Take in the present weights."""
        weights = self._weights()
        self.count += 1
        before = weights - self.mean
        self.mean += before / self.count
        after = weights - self.mean
        self.squares += before * after
        if self.rank:
            self.columns[(int(self.count) - 1) % self.rank] = after

    def source(self, scale: float) -> "IterateSource":
        """The Gaussian of what was collected."""
        shapes = {name: tuple(own.shape) for name, own in self.network.named_parameters() if own.requires_grad}
        stored = min(int(self.count), self.rank)
        variance = self.squares / max(1, int(self.count))
        return IterateSource(shapes, self.mean.clone(), variance, self.columns[:stored].clone(), scale)


class IterateSource(nn.Module):
    """Draws weights theta = mean + sqrt(s) (sqrt(variance) e1 + D e2 / sqrt(R - 1)), e1 and e2 standard normal.

    So the covariance is s (diag(variance) + D D^T / (R - 1)).

    Args:
        shapes: Of the weights by name, in the order in which they lie in the vectors.
        mean: Shape `(weights,)`.
        variance: Mean square minus square of the mean, shape `(weights,)`.
        columns: D transposed, shape `(R, weights)`: the R stored deviations; one or none is no low-rank part.
        scale: s.
    """

    mean: Tensor
    variance: Tensor
    columns: Tensor

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], mean: Tensor, variance: Tensor, columns: Tensor, scale: float
    ) -> None:
        super().__init__()
        self.shapes, self.scale = shapes, scale
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)
        self.register_buffer("columns", columns)

    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weights by name, each `(member, *shape)`."""
        weights = torch.stack([self._one(torch.Generator().manual_seed(seed)) for seed in seeds])
        parts = weights.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {name: part.view(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _one(self, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(self.mean), generator=generator).to(self.mean)
        deviation = self.variance.clamp(min=LEAST_VARIANCE).sqrt() * noise
        if len(self.columns) > 1:
            mixed = torch.randn(len(self.columns), generator=generator).to(self.mean)
            deviation += mixed @ self.columns / math.sqrt(len(self.columns) - 1)
        return self.mean + math.sqrt(self.scale) * deviation

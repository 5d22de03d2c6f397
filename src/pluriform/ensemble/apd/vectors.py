"""Weights of whole networks as flat vectors, and the two sources that draw such vectors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Distilled", "Stored", "flat_weights"]


def flat_weights(parameters: Sequence[Tensor]) -> Tensor:
    """One vector of all entries, in order."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


class _Vectors(nn.Module):
    """Cuts flat vectors into the trainable parameters of a network.

    Args:
        network: Gives names and shapes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        self.names, self.shapes = list(trained), [list(parameter.shape) for parameter in trained.values()]

    def vectors(self, seeds: Sequence[int]) -> Tensor:
        """Flat weights of one network a seed, `(member, weights)`."""
        raise NotImplementedError

    @torch.no_grad()
    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weights of one network a seed, stacked, by name."""
        vectors = self.vectors(seeds)
        parts = vectors.split([math.prod(shape) for shape in self.shapes], dim=1)
        return {
            name: part.reshape(len(vectors), *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }


class Stored(_Vectors):
    """Networks of a list: each seed takes one of them, with equal probabilities and with replacement.

    Args:
        network: Gives names and shapes.
        samples: Flat weights, `(samples, weights)`.
    """

    samples: Tensor

    def __init__(self, network: nn.Module, samples: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("samples", samples)

    def index(self, seed: int) -> int:
        """The sample that a seed takes."""
        return int(torch.randint(len(self.samples), (), generator=torch.Generator().manual_seed(seed)))

    def vectors(self, seeds: Sequence[int]) -> Tensor:
        """Flat weights of one network a seed, `(member, weights)`."""
        return self.samples[[self.index(seed) for seed in seeds]]


class Distilled(_Vectors):
    """Networks of a generator: each seed gives its noise.

    Args:
        network: Gives names and shapes.
        generator: Maps noise `(batch, noise)` to flat weights.
        noise: Its length.
    """

    def __init__(self, network: nn.Module, generator: nn.Module, noise: int) -> None:
        super().__init__(network)
        self.generator, self.noise = generator, noise

    def vectors(self, seeds: Sequence[int]) -> Tensor:
        """Flat weights of one network a seed, `(member, weights)`; one at a time, so that batches leave no trace."""
        like = next(self.generator.parameters())
        noise = [torch.randn(1, self.noise, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.cat([self.generator(row.to(like)) for row in noise])

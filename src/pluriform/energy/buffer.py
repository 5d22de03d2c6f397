"""`ReplayBuffer`: chains that live on from step to step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.energy.space import Space
from pluriform.energy.start import Start
from pluriform.errors import ConfigError, explain

__all__ = ["Chosen", "ReplayBuffer"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Chains taken from the buffer.

    Attributes:
        index: Their places, int64 `(batch,)`, each at most once.
        labels: The class of each place, int64 `(batch,)`.
        inputs: Their states.
    """

    index: Tensor
    labels: Tensor
    inputs: Inputs


class ReplayBuffer(nn.Module):
    """States of many chains, in equal blocks of places for the classes.

    Chains of the joint density ignore the blocks after their start; class-conditional ones keep to them.

    Args:
        start: Fills it, and renews chains.
        size: Chains in all; a multiple of `classes`.
        classes: Number of blocks.
        generator: Of the first states.

    Raises:
        ConfigError: The size is no multiple of the number of classes.

    References:
        Du, Mordatch 2019, Implicit Generation and Modeling with Energy-Based Models, arXiv:1903.08689.
    """

    samples: Tensor
    touched: Tensor

    def __init__(self, start: Start, size: int, classes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < classes or size % classes:
            got, remedy = f"{size} chains for {classes} classes", f"take {max(1, round(size / classes)) * classes}"
            raise ConfigError(explain("a buffer with as many chains of each class", got, "ReplayBuffer", remedy))
        self.start, self.block = start, size // classes
        parts = torch.arange(size).split(1000)
        self.register_buffer("samples", torch.cat([start.draw(part // self.block, generator) for part in parts]))
        self.register_buffer("touched", torch.full((size,), -1))  # By no step yet.

    @property
    def space(self) -> Space:
        """Unit and bounds of the inputs."""
        return self.start.space

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, count: int, renewed: float) -> Chosen:
        """Chains at random, some of them started anew; random numbers come from torch's default generator.

        Args:
            count: Number of chains, at most all.
            renewed: Probability that a chain starts anew.

        Raises:
            ConfigError: More chains than there are.
        """
        if count > len(self):
            got, remedy = f"{count}", f"use a batch of at most {len(self)}, or a larger buffer"
            raise ConfigError(explain(f"at most {len(self)} chains at once", got, "ReplayBuffer", remedy))
        device = self.samples.device
        index = torch.randperm(len(self), device=device)[:count]
        labels = index // self.block
        inputs = self.samples[index]
        anew = torch.rand(count, device=device) < renewed
        if bool(anew.any()):
            inputs[anew] = self.start.draw(labels[anew])
        return Chosen(index, labels, inputs)

    def write(self, chosen: Chosen, inputs: Inputs, step: int) -> None:
        """Put the states of chosen chains back; `step` is noted beside them."""
        self.samples[chosen.index] = inputs
        self.touched[chosen.index] = step

    def renew_since(self, step: int) -> int:
        """Start all chains anew that were written at `step` or later; gives their number."""
        late = (self.touched >= step).nonzero().flatten()
        for part in late.split(1000):
            self.samples[part] = self.start.draw(part // self.block)
        return len(late)

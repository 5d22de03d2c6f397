"""A store of earlier fakes, half of which a discriminator sees again."""

import torch
from torch import Tensor

__all__ = ["FakeBuffer"]


class FakeBuffer:
    """Each fake replaces, with probability 1/2, a stored one, which is shown in its place; first the store is filled.

    Args:
        capacity: Fakes stored; 50 as published.
        shape: Of one.

    Attributes:
        stored: `(capacity, *shape)`.
        count: How many there are, one number.

    References:
        Shrivastava, Pfister, Tuzel, Susskind, Wang, Webb 2017, Learning from Simulated and Unsupervised Images through
        Adversarial Training, arXiv:1612.07828.
    """

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        self.stored = torch.zeros(capacity, *shape)
        self.count = torch.zeros(1, dtype=torch.int64)

    @torch.no_grad()
    def exchange(self, fakes: Tensor, generator: torch.Generator) -> Tensor:
        """What to show for `fakes`, `(batch, *shape)`.

        Args:
            fakes: New ones.
            generator: Of the choices, on the CPU.
        """
        shown = []
        for fake in fakes.detach():
            place = int(self.count)
            if place < len(self.stored):
                self.stored[place] = fake.float().cpu()
                self.count += 1
                shown.append(fake)
                continue
            draw = int(torch.randint(2 * len(self.stored), (1,), generator=generator))
            if draw >= len(self.stored):
                shown.append(fake)
                continue
            shown.append(self.stored[draw].to(fake, copy=True))
            self.stored[draw] = fake.float().cpu()
        return torch.stack(shown)

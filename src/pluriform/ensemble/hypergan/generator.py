"""`WeightGenerator`: noise to codes to whole sets of weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pluriform.ensemble.hypergan.mixer import Codes, Noise

__all__ = ["WeightGenerator"]

DRAWN_AT_ONCE = 8  # Always so many, so that rounding does not depend on how many draws are asked for.


class WeightGenerator(nn.Module):
    """A mixer, a head that turns the codes of the layers into their weights, and the mean weights it varies.

    Args:
        mixer: Noise `(member, noise)` to codes `(member, layer, code)`.
        head: Codes and base to weights `(member, *shape)` by name.
        base: Learnable weights that all draws share, by name of the target's parameter.
    """

    def __init__(self, mixer: nn.Module, head: nn.Module, base: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.mixer, self.head = mixer, head
        self.base = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in base.values()])
        self.names = tuple(base)

    @property
    def noise_size(self) -> int:
        """Length of a noise vector."""
        return int(self.mixer.noise_size)  # type: ignore[arg-type]

    @property
    def code_size(self) -> int:
        """Length of a code."""
        return int(self.mixer.code_size)  # type: ignore[arg-type]

    def codes(self, noise: Noise) -> Codes:
        """Codes of every layer."""
        return self.mixer(noise)

    def weights(self, codes: Codes) -> dict[str, Tensor]:
        """Weights of the target by name, `(member, *shape)`."""
        return self.head(codes, dict(zip(self.names, self.base, strict=True)))

    def noise_of(self, seeds: Sequence[int]) -> Noise:
        """One noise vector a seed, whatever the other seeds are."""
        rows = [torch.randn(self.noise_size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.base[0].device)

    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weights for each seed, in groups of a fixed size."""
        parts = []
        for group in self.noise_of(seeds).split(DRAWN_AT_ONCE):
            padded = torch.cat([group, group.new_zeros(DRAWN_AT_ONCE - len(group), group.shape[1])])
            drawn = self.weights(self.codes(padded))
            parts.append({name: tensor[: len(group)] for name, tensor in drawn.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

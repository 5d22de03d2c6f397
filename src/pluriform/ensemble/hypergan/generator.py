"""`WeightGenerator`: noise to codes to whole sets of weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.ensemble.hypergan.mixer import Codes, Noise
from pluriform.ensemble.particles.gpvi import GPVI

__all__ = ["Draws", "WeightGenerator"]

DRAWN_AT_ONCE = 8  # Always so many, so that rounding does not depend on how many draws are asked for.


@dataclass(frozen=True, eq=False)
class Draws:
    """Weights of several networks and where they come from.

    Attributes:
        codes: `(member, layer, code)`.
        weights: By name of the target's parameter, `(member, *shape)`.
    """

    codes: Codes
    weights: dict[str, Tensor]


class WeightGenerator(nn.Module):
    """A mixer, a head that turns the codes of the layers into their weights, and the mean weights it varies.

    Args:
        mixer: Noise `(member, noise)` to codes `(member, layer, code)`.
        head: Codes and base to weights `(member, *shape)` by name.
        base: Learnable weights that all draws share, by name of the target's parameter.
        jitter: Adds noise to every weight, of a trained deviation; the mixer then gets the first part of that noise.
    """

    def __init__(
        self, mixer: nn.Module, head: nn.Module, base: Mapping[str, Tensor], jitter: GPVI | None = None
    ) -> None:
        super().__init__()
        self.mixer, self.head, self.jitter = mixer, head, jitter
        self.base = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in base.values()])
        self.names = tuple(base)

    @property
    def noise_size(self) -> int:
        """Length of a noise vector."""
        return int(self.mixer.noise_size) if self.jitter is None else self.jitter.size  # type: ignore[arg-type]

    @property
    def code_size(self) -> int:
        """Length of a code."""
        return int(self.mixer.code_size)  # type: ignore[arg-type]

    def codes(self, noise: Noise) -> Codes:
        """Codes of every layer."""
        return self.mixer(noise[:, : int(self.mixer.noise_size)])  # type: ignore[arg-type]

    def weights(self, codes: Codes) -> dict[str, Tensor]:
        """Weights of the target without jitter, by name, `(member, *shape)`."""
        return self.head(codes, dict(zip(self.names, self.base, strict=True)))

    def draws(self, noise: Noise) -> Draws:
        """Codes and complete weights."""
        codes = self.codes(noise)
        weights = self.weights(codes)
        if self.jitter is not None:
            weights = self.unflattened(self.jitter.perturb(self.flattened(weights), noise))
        return Draws(codes, weights)

    def flattened(self, weights: Mapping[str, Tensor]) -> Float[Tensor, "member size"]:
        """All weights of each member as one row."""
        return torch.cat([weights[name].flatten(1) for name in self.names], 1)

    def unflattened(self, rows: Float[Tensor, "member size"]) -> dict[str, Tensor]:
        """Weights by name from rows, as views."""
        parts = rows.split([math.prod(value.shape) for value in self.base], 1)
        pairs = zip(self.names, self.base, parts, strict=True)
        return {name: part.view(-1, *value.shape) for name, value, part in pairs}

    def noise_of(self, seeds: Sequence[int]) -> Noise:
        """One noise vector a seed, whatever the other seeds are, in the type of the weights."""
        rows = [torch.randn(self.noise_size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.base[0])

    def draw(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Weights for each seed, in groups of a fixed size."""
        parts = []
        for group in self.noise_of(seeds).split(DRAWN_AT_ONCE):
            padded = torch.cat([group, group.new_zeros(DRAWN_AT_ONCE - len(group), group.shape[1])])
            drawn = self.draws(padded).weights
            parts.append({name: tensor[: len(group)] for name, tensor in drawn.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

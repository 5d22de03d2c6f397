"""One step of the joint training: chains of the replay buffer, and the loss of data against them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.energy.buffer import Chosen, ReplayBuffer
from pluriform.energy.langevin import Chains, Langevin, langevin
from pluriform.energy.normalisation import Policy, eval_parts
from pluriform.energy.score import Score, log_density
from pluriform.energy.sharpness import ascent
from pluriform.energy.space import Space
from pluriform.energy.streams import Cycle
from pluriform.energy.watch import Watch
from pluriform.errors import ConfigError, explain
from pluriform.graph.parameters import call, frozen
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["Joint", "Terms", "noisy"]

LEAST_PENALTY = 0.01


@dataclass(frozen=True)
class Terms:
    """Weights of the loss.

    L = density (mean s(x~) - mean s(x)) + classification CE + joint (mean f_y~(x~) - mean f_y(x))
    + penalty (mean s(x)^2 + mean s(x~)^2), where s is log p(x) up to its constant and x~ are chains.
    """

    density: float | int = 1.0
    classification: float | int = 1.0
    joint: float | int = 0.0
    penalty: float | int = 0.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0 <= weight < inf:
                raise ConfigError(explain(f"{name}: 0 or more", f"{weight}", "Terms", f"change {name}"))
        if not self.density + self.classification + self.joint:
            got, remedy = "a loss of nothing but a penalty", "leave classification at 1"
            raise ConfigError(explain("density, classification or joint above 0", got, "Terms", remedy))

    @property
    def plain(self) -> bool:
        """Whether there are no chains in it."""
        return self.density == self.joint == self.penalty == 0


def noisy(inputs: Inputs, deviation: float, space: Space) -> Inputs:
    """Inputs with Gaussian noise of a standard deviation in the units of the space; as they are where it is 0."""
    return inputs + deviation * space.unit * torch.randn_like(inputs) if deviation else inputs


class Joint:
    """The step closure of a loop.

    Args:
        network: What is trained.
        terms: Weights of the loss.
        sampler: Of the chains.
        buffer: Of the chains.
        other: The stream beside that of the loop.
        loss: Of the labelled stream.
        labelled_first: Whether the loop's stream is the labelled one, else it is that of p(x).
        renewed: Probability that a chain starts anew.
        input_noise: Standard deviation, in units of [-1, 1], of noise on inputs: of labelled ones and, with
            `density_noise`, of those of p(x).
        density_noise: Whether the stream of p(x) gets noise too.
        conditional: Whether chains climb the logit of the class of their place.
        policy: What is done about BatchNorm.
        rho: Radius of sharpness-aware minimisation; 0 for none.
        fused: Whether fused kernels may run the chains.
    """

    def __init__(
        self,
        network: nn.Module,
        terms: Terms,
        sampler: Langevin,
        buffer: ReplayBuffer,
        other: Cycle,
        loss: Loss,
        *,
        labelled_first: bool,
        renewed: float,
        input_noise: float,
        density_noise: bool,
        conditional: bool,
        policy: Policy,
        rho: float,
        fused: bool = False,
    ) -> None:
        self.network, self.terms, self.sampler, self.buffer = network, terms, sampler, buffer
        self.other, self.loss, self.labelled_first = other, loss, labelled_first
        self.renewed, self.input_noise, self.density_noise = renewed, input_noise, density_noise
        self.conditional, self.policy, self.rho, self.fused = conditional, policy, rho, fused
        self.penalty = float(terms.penalty)
        self.space = buffer.space
        self.evaluated = eval_parts(network, policy)
        self.watch = Watch()
        self.done = torch.zeros((), dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, beside the network."""
        chains = {"samples": self.buffer.samples, "touched": self.buffer.touched}
        return {**chains, "done": self.done, **{f"watch/{name}": part for name, part in self.watch.state.items()}}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and figures of a step."""
        other = self.other.at(int(self.done))
        labelled, density = (batch, other) if self.labelled_first else (other, batch)
        chosen, chains = self._sample(len(density.targets))
        self.buffer.write(chosen, chains.inputs, int(self.done))
        self.done += 1
        labelled = Batch(noisy(labelled.inputs, self.input_noise, self.space), labelled.targets)
        inputs = noisy(density.inputs, self.input_noise if self.density_noise else 0.0, self.space)
        figures = self._figures(labelled, inputs, chosen, chains.inputs, None)
        if self.rho:
            raised = ascent(self.network, figures["loss"], self.rho)
            figures |= {"loss": self._figures(labelled, inputs, chosen, chains.inputs, raised)["loss"]}
        return figures | {"input_gradient": chains.gradient, "reach": chains.reach}

    def gentler(self) -> str:
        """After a roll-back: a stronger penalty."""
        self.penalty = max(2 * self.penalty, LEAST_PENALTY)
        return f"penalty {self.penalty:g}"

    def afterwards(self, step: int) -> None:
        """After a roll-back: chains of the runaway start anew."""
        self.buffer.renew_since(step)

    def _sample(self, count: int) -> tuple[Chosen, Chains]:
        chosen = self.buffer.choose(count, self.renewed)
        if self.policy == "train":
            self._train_mode()
        else:
            self.network.eval()
        with frozen(self.network):
            score = Score(self.network, chosen.labels if self.conditional else None)
            chains = langevin(score, chosen.inputs, self.sampler, self.space, fused=self.fused)
        self._train_mode()
        return chosen, chains

    def _train_mode(self) -> None:
        self.network.train()
        for part in self.evaluated:
            part.eval()

    def _figures(
        self, labelled: Batch, density: Tensor, chosen: Chosen, chains: Tensor, weights: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Loss and its parts; `weights` are others than those of the network."""
        logits, real, fake = self._logits([labelled.inputs, density, chains], weights)
        score, against = log_density(real), log_density(fake)
        cross_entropy = self.loss(logits, labelled.targets)
        gap = score.mean() - against.mean()
        loss = self.terms.classification * cross_entropy - self.terms.density * gap
        if self.terms.joint:
            own = log_density(logits, labelled.targets).mean()
            loss = loss + self.terms.joint * (log_density(fake, chosen.labels).mean() - own)
        if self.penalty:
            loss = loss + self.penalty * (score.square().mean() + against.square().mean())
        largest = torch.maximum(score.detach().abs().max(), against.detach().abs().max())
        return {"loss": loss, "cross_entropy": cross_entropy, "gap": gap, "largest_score": largest}

    def _logits(self, parts: list[Tensor], weights: Mapping[str, Tensor] | None) -> list[Tensor]:
        """Of all parts at once; each by itself where a batch has statistics of its own."""
        if self.policy == "train":
            return [self._outputs(part, weights) for part in parts]
        return list(self._outputs(torch.cat(parts), weights).split([len(part) for part in parts]))

    def _outputs(self, inputs: Tensor, weights: Mapping[str, Tensor] | None) -> Tensor:
        return self.network(inputs) if weights is None else call(self.network, weights, inputs)

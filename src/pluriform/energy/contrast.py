"""One step of dual adversarial training: attacked examples for p(y|x), climbing noise against data for p(x)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pluriform.attacks.adversarial import adversarial_examples
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels
from pluriform.energy.curriculum import Curriculum
from pluriform.energy.langevin import Langevin, langevin
from pluriform.energy.normalisation import eval_parts
from pluriform.energy.score import Score, log_density
from pluriform.energy.space import Space
from pluriform.energy.start import Start
from pluriform.energy.streams import Cycle
from pluriform.energy.watch import Watch
from pluriform.graph.parameters import frozen, modes_kept
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["Adversary", "Contrast", "contrastive_samples", "real_against"]


class Adversary:
    """Attacks labelled batches as dual adversarial training does: L2, from the inputs themselves.

    Args:
        threat: With bounds.
        steps: Of PGD.
        step_size: In input units.
    """

    def __init__(self, threat: Threat, steps: int, step_size: float) -> None:
        self.threat, self.steps, self.step_size = threat, steps, step_size

    def __call__(self, network: nn.Module, batch: Batch) -> Batch:
        """The batch with its inputs perturbed."""
        moved = adversarial_examples(
            network, batch.inputs, batch.targets, self.threat, steps=self.steps, step_size=self.step_size
        )
        return Batch(moved, batch.targets)

    @property
    def passes(self) -> int:
        """Forward passes that an attack costs; a gradient of the inputs counts as one more."""
        return 2 * self.steps + 2 if self.threat.eps and self.steps else 0


def contrastive_samples(
    network: nn.Module,
    seeds: Inputs,
    labels: Labels,
    sampler: Langevin,
    space: Space,
    generator: torch.Generator | None = None,
    *,
    fused: bool = False,
) -> Inputs:
    """Seeds after the steps x <- clip(x + step g / ||g||) with g = grad f_y(x), at any distance from where they began.

    The network climbs in evaluation mode; its modes, weights and their gradients stay as they are.

    Args:
        network: Gives logits.
        seeds: `(batch, *input_shape)`; they stay as they are.
        labels: The class whose logit each one climbs.
        sampler: Number and size of the steps.
        space: Unit and bounds of the inputs.
        generator: Of noise, where the sampler has any.
        fused: Let fused kernels run the steps where they compute the network.
    """
    with modes_kept(network), frozen(network):
        network.eval()
        return langevin(Score(network, labels), seeds, sampler, space, generator, fused=fused).inputs


def real_against(real: Tensor, samples: Tensor) -> Tensor:
    """-mean log sigma(s(x)) - mean log(1 - sigma(s(x~))) of scores s = logsumexp f; a scalar."""
    return F.softplus(-real).mean() + F.softplus(samples).mean()


class Contrast:
    """The step closure of a loop.

    Args:
        network: What is trained.
        adversary: Of the labelled stream.
        sampler: Of the contrastive samples; its number of steps is that of the curriculum.
        curriculum: Says how far samples climb.
        start: Where samples begin.
        real: The stream of p(x), with the classes that samples climb to.
        loss: Of the labelled stream.
        penalty: Weight of the squared gradient of the score at the data.
        fused: Whether fused kernels may run the steps of the samples.
    """

    def __init__(
        self,
        network: nn.Module,
        adversary: Adversary,
        sampler: Langevin,
        curriculum: Curriculum,
        start: Start,
        real: Cycle,
        loss: Loss,
        penalty: float = 0.0,
        fused: bool = False,
    ) -> None:
        self.network, self.adversary, self.sampler, self.curriculum = network, adversary, sampler, curriculum
        self.start, self.real, self.loss, self.penalty, self.fused = start, real, loss, penalty, fused
        self.evaluated = eval_parts(network, "freeze")
        self.watch = Watch()
        self.done = torch.zeros((), dtype=torch.int64)
        self.climbed = torch.zeros((), dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, beside the network."""
        return {**self.curriculum.state, "done": self.done, "climbed": self.climbed}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Loss and figures of a step."""
        steps = int(self.curriculum)
        real = self.real.at(int(self.done))
        attacked = self.adversary(self.network, batch)
        seeds = self.start.draw(real.targets)
        sampler = replace(self.sampler, steps=steps)
        space = self.start.space
        samples = contrastive_samples(self.network, seeds, real.targets, sampler, space, fused=self.fused)
        self.done += 1
        self.climbed += steps
        self._train_mode()
        return self._figures(attacked, real, samples) | {"climbing_steps": torch.tensor(float(steps))}

    def check(self, figures: Mapping[str, Tensor]) -> str | None:
        """What is wrong with a step, in words, or `None`."""
        return self.watch.check({name: figures[name] for name in ("loss", "largest_score")})

    def _train_mode(self) -> None:
        self.network.train()
        for part in self.evaluated:
            part.eval()

    def _figures(self, attacked: Batch, real: Batch, samples: Tensor) -> dict[str, Tensor]:
        data = real.inputs.detach().requires_grad_(bool(self.penalty))
        parts = [attacked.inputs, data, samples]
        logits, own, other = self.network(torch.cat(parts)).split([len(part) for part in parts])
        score, against = log_density(own), log_density(other)
        cross_entropy, contrast = self.loss(logits, attacked.targets), real_against(score, against)
        loss = cross_entropy + contrast
        if self.penalty:
            (slope,) = torch.autograd.grad(score.sum(), data, create_graph=True)
            slope = slope * self.start.space.unit * 2  # As if the inputs spanned [0, 1].
            loss = loss + self.penalty / 2 * slope.flatten(1).square().sum(1).mean()
        self.curriculum.update(log_density(own, real.targets), log_density(other, real.targets))
        largest = torch.maximum(score.detach().abs().max(), against.detach().abs().max())
        return {
            "loss": loss,
            "cross_entropy": cross_entropy,
            "contrast": contrast,
            "margin": score.detach().mean() - against.detach().mean(),
            "largest_score": largest,
        }

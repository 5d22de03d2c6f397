"""What a step of training minimises: the task loss of drawn networks, and what keeps the draws apart."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.ensemble.calling import Calling, call_members
from pluriform.ensemble.hypergan.discriminator import Discriminator
from pluriform.ensemble.hypergan.generator import Draws, WeightGenerator
from pluriform.ensemble.hypergan.gradients import Gradients, gradients_of, surrogate
from pluriform.ensemble.hypergan.mixer import gaussian_divergence
from pluriform.ensemble.particles.function_svgd import extra_inputs, function_svgd_direction
from pluriform.ensemble.particles.gpvi import GPVI
from pluriform.ensemble.particles.svgd import log_posterior_scores, particle_loss, svgd_direction
from pluriform.ensemble.statistics import statistics_copies
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["FunctionSVGD", "FunctionalGradient", "LatentGAN", "SVGD", "Setting", "TaskOnly"]

CODES_A_DIMENSION = 4  # Noise vectors of the game, a code dimension; they cost nothing beside the networks.
EXTRA_SHARE = 0.1  # Noise inputs beside a batch.
LEAST_EXTRA = 2  # Batch statistics need two.
PRIOR_VARIANCE = 1.0


@dataclass(frozen=True, eq=False)
class Setting:
    """What every step needs.

    Attributes:
        template: The network that is drawn.
        generator: Draws its weights.
        loss: One number a member.
        calling: How networks are computed.
        own_batches: Whether batches have a member axis.
        networks: Networks drawn in a step.
        samples: Training samples.
        bounds: Of the inputs; `None` where they have none.
        device: Where to compute.
    """

    template: nn.Module
    generator: WeightGenerator
    loss: Loss
    calling: Calling
    own_batches: bool
    networks: int
    samples: int
    bounds: tuple[float, float] | None
    device: torch.device

    def noise(self, count: int) -> Tensor:
        """Noise vectors from torch's default generator."""
        return torch.randn(count, self.generator.noise_size, device=self.device)

    def gradients(self, draws: Draws, batch: Batch) -> Gradients:
        """Losses of the drawn networks on a batch and their gradients."""
        return gradients_of(self.template, draws.weights, batch, self.loss, self.calling, self.own_batches)


class TaskOnly(nn.Module):
    """The mean loss of the drawn networks alone, which collapses to one network in the end."""

    def forward(self, setting: Setting, batch: Batch) -> dict[str, Tensor]:
        """Figures of one step; the gradient of `loss` trains everything."""
        draws = setting.generator.draws(setting.noise(setting.networks))
        gradients = setting.gradients(draws, batch)
        return {"loss": surrogate(setting.template, draws.weights, gradients), "task_loss": gradients.losses}


class LatentGAN(nn.Module):
    """Task loss plus `beta` times the distance of the codes from the prior: HyperGAN.

    The distance is what the discriminator sees, plus the divergence of a Gaussian with the moments of each layer's
    codes from the prior. The second is not in the paper: with the adversary alone, codes gather in a point that runs
    from it.

    Args:
        discriminator: Trained in the same step.
        beta: Weight of the codes' losses.

    References:
        Ratzlaff, Li 2019, arXiv:1901.11058, Eq. 2 and 3.
    """

    def __init__(self, discriminator: Discriminator, beta: float) -> None:
        super().__init__()
        self.discriminator, self.beta = discriminator, beta

    def forward(self, setting: Setting, batch: Batch) -> dict[str, Tensor]:
        """Figures of one step; the gradient of `loss` trains both sides of the game."""
        draws = setting.generator.draws(setting.noise(setting.networks))
        gradients = setting.gradients(draws, batch)
        count = CODES_A_DIMENSION * setting.generator.code_size
        more = setting.generator.codes(setting.noise(max(0, count - setting.networks)))
        codes = torch.cat([draws.codes, more])
        game, moments = self.discriminator.losses(codes), gaussian_divergence(codes)
        task = surrogate(setting.template, draws.weights, gradients)
        return {
            "loss": task + self.beta * (game.codes + moments) + game.discriminator,
            "task_loss": gradients.losses,
            "discriminator_loss": game.discriminator,
            "code_loss": game.codes,
            "moment_loss": moments,
        }


class SVGD(nn.Module):
    """Amortised Stein variational gradient descent: drawn weights repel each other.

    Args:
        repulsion: Weight of the repulsion; 1 / samples is the posterior, more is more diverse than it.

    References:
        Feng, Wang, Liu 2017, Learning to Draw Samples with Amortized Stein Variational Gradient Descent,
        arXiv:1707.06626.
    """

    def __init__(self, repulsion: float) -> None:
        super().__init__()
        self.repulsion = repulsion

    def forward(self, setting: Setting, batch: Batch) -> dict[str, Tensor]:
        """Figures of one step."""
        draws = setting.generator.draws(setting.noise(setting.networks))
        gradients = setting.gradients(draws, batch)
        particles = setting.generator.flattened(draws.weights)
        direction = svgd_direction(particles.detach(), _scores(setting, particles, gradients), entropy=self.repulsion)
        linear = particle_loss(particles, direction) + _shared(setting, gradients)
        return {"loss": _valued(linear, gradients.losses), "task_loss": gradients.losses}


class FunctionSVGD(nn.Module):
    """Stein variational gradient descent on what the networks compute, on the batch and on noise inputs.

    The graphs of all networks of a step are in memory at once.

    Args:
        repulsion: Weight of the repulsion between outputs.

    References:
        Wang, Ren, Zhu, Zhang 2019, Function Space Particle Optimization for Bayesian Neural Networks, arXiv:1902.09754.
    """

    def __init__(self, repulsion: float) -> None:
        super().__init__()
        self.repulsion = repulsion

    def forward(self, setting: Setting, batch: Batch) -> dict[str, Tensor]:
        """Figures of one step."""
        draws = setting.generator.draws(setting.noise(setting.networks))
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in draws.weights.items()}
        shared = {n: p for n, p in setting.template.named_parameters() if p.requires_grad and n not in leaves}
        copies = statistics_copies(setting.template, setting.networks)
        outputs = torch.cat(
            [call_members(setting.template, leaves | copies, x, setting.calling) for x in _with_noise(setting, batch)],
            1,
        )
        known = outputs.detach().requires_grad_()
        losses = setting.loss(
            known[:, : len(batch.inputs)], batch.targets.expand(setting.networks, *batch.targets.shape)
        )
        (slope,) = torch.autograd.grad(losses.sum(), known)
        direction = function_svgd_direction(known.detach(), -slope, entropy=self.repulsion)
        trained = [*leaves.values(), *shared.values()]
        found = torch.autograd.grad((outputs * -direction).sum(), trained, materialize_grads=True)
        gradients = Gradients(
            losses.detach(),
            dict(zip(leaves, found[: len(leaves)], strict=True)),
            {name: part / setting.networks for name, part in zip(shared, found[len(leaves) :], strict=True)},
        )
        return {"loss": surrogate(setting.template, draws.weights, gradients), "task_loss": gradients.losses}


class FunctionalGradient(nn.Module):
    """GPVI: the functional gradient of the KL divergence from the generator to the posterior.

    Args:
        gpvi: The full-rank jitter of the generator with its inverse Jacobian.
        repulsion: Weight of the entropy; 1 / samples is the posterior.

    References:
        Ratzlaff, Bai, Fuxin, Xu 2021, Generative Particle Variational Inference via Estimation of Functional Gradients,
        arXiv:2103.01291.
    """

    def __init__(self, gpvi: GPVI, repulsion: float) -> None:
        super().__init__()
        self.gpvi, self.repulsion = gpvi, repulsion

    def forward(self, setting: Setting, batch: Batch) -> dict[str, Tensor]:
        """Figures of one step; its gradient trains generator, jitter and inverse Jacobian."""
        generator, noise = setting.generator, setting.noise(setting.networks)
        with torch.no_grad():
            draws = generator.draws(noise)
        gradients = setting.gradients(draws, batch)
        scores = _scores(setting, generator.flattened(draws.weights), gradients)

        def function(given: Tensor) -> Tensor:
            return generator.flattened(generator.weights(generator.codes(given)))

        found = self.gpvi.losses(function, noise[:, : self.gpvi.noise], noise, scores, self.repulsion)
        linear = found.generator_surrogate + _shared(setting, gradients)
        loss = _valued(linear, gradients.losses) + found.auxiliary
        return {
            "loss": loss,
            "task_loss": gradients.losses,
            "inverse_jacobian_loss": found.auxiliary,
            "jitter": self.gpvi.scale,
        }


def _scores(setting: Setting, particles: Tensor, gradients: Gradients) -> Tensor:
    flat = setting.generator.flattened(gradients.drawn)
    return log_posterior_scores(flat, particles.detach(), setting.samples, PRIOR_VARIANCE)


def _shared(setting: Setting, gradients: Gradients) -> Tensor:
    """A number whose gradient is that of the mean loss with respect to the weights that all networks share."""
    own: dict[str, Any] = dict(setting.template.named_parameters())
    terms = [(own[name] * gradient).sum() for name, gradient in gradients.shared.items()]
    return torch.stack(terms).sum() if terms else gradients.losses.new_zeros(())


def _valued(linear: Tensor, losses: Tensor) -> Tensor:
    """The gradient of `linear` with the value of the mean loss."""
    return linear - linear.detach() + losses.mean()


def _with_noise(setting: Setting, batch: Batch) -> tuple[Tensor, Tensor]:
    """The inputs of the batch, and noise inputs; apart, since batch statistics must not mix them."""
    low, high = setting.bounds or (float(end) for end in batch.inputs.aminmax())
    seed = int(torch.randint(2**62, ()))
    share = max(EXTRA_SHARE, LEAST_EXTRA / len(batch.inputs))
    both = extra_inputs(batch.inputs, (low, high), share, torch.Generator().manual_seed(seed))
    return batch.inputs, both[len(batch.inputs) :]

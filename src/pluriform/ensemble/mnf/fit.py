"""`MNF`: variational inference with multiplicative normalizing flows."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise
from pluriform.ensemble.mnf.source import MNFSource, replace_layers
from pluriform.ensemble.statistics import calibration_inputs
from pluriform.errors import ConfigError, explain
from pluriform.graph.parameters import call, weights_of
from pluriform.method import FitContext, Method
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed, resident, take
from pluriform.training.layout import to_channels_last
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment, looked_at_once

__all__ = ["MNF"]

NOISE_SAMPLES = 1000  # Training targets whose variance the noise of a regression begins at.
JUDGED = 5  # Draws whose mean prediction is judged on the validation split.


def _recipe() -> Recipe:
    return Recipe(batch_size=100, learning_rate=1e-3, weight_decay=0.0, schedule="constant", warmup=0.0)


@dataclass(frozen=True)
class MNF(Method):
    """Variational inference whose Gaussian weights share a multiplicative noise with a flexible distribution.

    q(W) = int q(W | z) q(z) dz for every linear and convolutional layer: W_ij ~ N(z_i mu_ij, sigma_ij^2), with z over
    the inputs of a linear layer and over the output filters of a convolution, z = flow(z0), z0 ~ N(m, v). Minimised is

    mean NLL + (1 / n) sum_layers E_q(z) [ KL(q(W | z) || N(0, 1)) + log q(z) - log r(z | W) ],

    a bound on the free energy, with an auxiliary r of its own flow. Outputs are sampled by local reparametrisation, one
    z a sample and layer. A member of the form has one z a layer, then W given z: a network of the user's class.

    Biases of these layers have Gaussians; sigma is at most 0.5. All other parameters (normalisation, embeddings,
    weights that several layers share, layers with a `forward` of their own) are trained as points without a prior.
    Training starts from the given weights: z around 1, sigma = exp(-9). In regression the noise variance is learned
    with the weights, and that of the form is fitted to its members. Dropout acts in training only.

    The paper trained LeNet-5 for 100 epochs of batches of 100 and averaged 100 draws. Two departures: the masks of the
    flows are fixed (its code draws them in every pass), and sigma has its cap in the divergence too.

    Args:
        members: Draws of the form; the paper used 100.
        training: How it is trained; the default is the paper's Adam at 1e-3. Weight decay is left out, as the
            divergence takes its place. Validation figures are those of five draws averaged.
        flows: Steps of the flow of each z, and of each auxiliary one; 0 leaves z Gaussian.
        warmup: Share of the steps over which the weight of the divergence rises from 0 to 1.

    References:
        Louizos, Welling 2017, Multiplicative Normalizing Flows for Variational Bayesian Neural Networks,
        arXiv:1703.01961.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.MNF(members=5, training=pf.Training(epochs=2))
        >>> method.fit(pf.nets.build("mlp", data), data).predict(data.test.inputs[:3]).members.shape
        torch.Size([5, 3, 10])
    """

    members: int = 30
    training: Recipe = field(default_factory=_recipe)
    flows: int = 2
    warmup: float | int = 0.0

    def __post_init__(self) -> None:
        if self.members < 1 or self.flows < 0 or not 0 <= self.warmup <= 1:
            got = f"members={self.members}, flows={self.flows}, warmup={self.warmup}"
            expected = "at least one member, no fewer than 0 flow steps, and a warm-up in [0, 1]"
            raise ConfigError(explain(expected, got, "MNF", "use the defaults as a start"))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        template = module.to(context.device)
        recipe = replace(self.training, weight_decay=0.0)
        posterior = Posterior(template, self.flows, data, context)
        loop = _loop(self, recipe, template, posterior, data, context)
        cost = loop.run()
        _take_points(template, posterior.network)
        return _form(self, template.eval(), posterior, data, context, cost, loop.history)


class Posterior(nn.Module):
    """What is trained: the network with MNF layers, the count of steps and, in regression, the noise.

    Args:
        template: The user's network; it is copied.
        flows: Steps of the flows.
        data: Data set.
        context: Seed and device.
    """

    done: Tensor

    def __init__(self, template: nn.Module, flows: int, data: Data, context: FitContext) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(context.seed, "flows"))
            network = copy.deepcopy(template)
            self.layers = replace_layers(network, flows)
        self.network = self.layers.get("", network)
        self.log_noise = None
        if data.task == "regression":
            _, targets = take(data.train, torch.arange(min(NOISE_SAMPLES, len(data.train))))
            self.log_noise = nn.Parameter(targets.float().var(0, correction=0).clamp(min=1e-12).log())
        self.register_buffer("done", torch.zeros(()))
        self.to(context.device)

    @property
    def source(self) -> MNFSource:
        """Weights of the layers, to be drawn."""
        return MNFSource(self.layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the network, sampled in training mode."""
        return self.network(inputs)

    def divergence(self) -> Tensor:
        """Estimated bound on the divergence of all layers from their priors, in nats."""
        return torch.stack([layer.divergence() for layer in self.layers.values()]).sum()

    def likelihood(self, outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Mean negative log-likelihood of a sample, in nats."""
        if self.log_noise is None:
            return loss(outputs, targets)
        squared = (outputs - targets).square() * (-self.log_noise).exp()
        return (squared + self.log_noise + math.log(2 * math.pi)).sum(-1).mean() / 2


def _loop(
    method: MNF, recipe: Recipe, template: nn.Module, posterior: Posterior, data: Data, context: FitContext
) -> Loop:
    loss, samples = Loss.of(recipe, data, context.device), len(data.train)
    feed = Feed(data, recipe.batch_size, context.seed, recipe.augmentation, context.device)
    if to_channels_last(posterior, feed.sample()):
        feed.memory_format = torch.channels_last
    epochs = recipe.epochs_for(samples)
    rise = method.warmup * epochs * feed.steps

    def step(batch: Batch) -> dict[str, Tensor]:
        posterior.done += 1
        nll, divergence = posterior.likelihood(posterior(batch.inputs), batch.targets, loss), posterior.divergence()
        share = (posterior.done / rise).clamp(max=1) if rise else 1.0
        return {"loss": nll + share * divergence / samples, "nll": nll, "divergence": divergence}

    return Loop(
        posterior,
        step,
        feed,
        recipe,
        seed=context.seed,
        epochs=epochs,
        run=context.run,
        validate=(lambda: _assess(template, posterior, data, context)) if len(data.validation) else None,
    )


@torch.no_grad()
def _assess(template: nn.Module, posterior: Posterior, data: Data, context: FitContext) -> Assessment:
    """Loss and accuracy of a few draws averaged, always the same draws of the noise."""
    _take_points(template, posterior.network)
    template.eval()
    split, loss = resident(data.validation, context.device), Loss(data.task)
    drawn = posterior.source.draw(draw_seeds(JUDGED, context.seed))
    sets = [{name: tensor[member] for name, tensor in drawn.items()} for member in range(JUDGED)]
    total, hits = torch.zeros(1), torch.zeros(1)
    for index in torch.arange(len(split)).split(looked_at_once(context.device)):
        inputs, targets = (part.to(context.device) for part in take(split, index))
        outputs = torch.stack([call(template, weights, inputs) for weights in sets])
        if data.task == "classification":
            mean = outputs.log_softmax(-1).logsumexp(0)
            hits += (mean.argmax(-1) == targets).sum().cpu()
        else:
            mean = outputs.mean(0)
        total += loss(mean, targets).cpu() * len(index)
    return Assessment(total / len(split), hits / len(split) if data.task == "classification" else None)


@torch.no_grad()
def _take_points(template: nn.Module, network: nn.Module) -> None:
    """Copy into the template what has no distribution of its own: other parameters, running statistics."""
    trained = weights_of(network)
    for name, tensor in weights_of(template).items():
        if name in trained:
            tensor.copy_(trained[name])


def _form(
    method: MNF,
    template: nn.Module,
    posterior: Posterior,
    data: Data,
    context: FitContext,
    cost: FitCost,
    lines: list[dict[str, float | int]],
) -> Drawn:
    form = Drawn(
        template,
        posterior.source,
        draw_seeds(method.members, context.seed),
        data.signature,
        calibration=calibration_inputs(template, data, context.seed),
        cost=cost.to_json(),
        history={name: [float(line[name]) for line in lines] for name in (lines[0] if lines else ())},
    ).eval()
    form.noise = fitted_noise(form, data)
    return form

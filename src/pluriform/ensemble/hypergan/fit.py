"""`HyperGAN`: train a generator of networks, keep its draws as seeds."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise
from pluriform.ensemble.heads.choice import choose_head, make_head
from pluriform.ensemble.heads.initialisation import Shares, deviations_of, split
from pluriform.ensemble.hypergan.discriminator import Discriminator
from pluriform.ensemble.hypergan.game import Game, GameTraining
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.mixer import Independent, Mixer, pretrain
from pluriform.ensemble.hypergan.objectives import SVGD, FunctionalGradient, FunctionSVGD, LatentGAN, TaskOnly
from pluriform.ensemble.particles.gpvi import GPVI
from pluriform.ensemble.statistics import calibration_inputs, has_statistics
from pluriform.ensemble.target import Entry, layers_of
from pluriform.errors import ConfigError, explain, require
from pluriform.method import FitContext, Method
from pluriform.training.feed import take
from pluriform.training.initialisation import reinitialise
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed

__all__ = ["HyperGAN"]

SHARED = {"low-rank": 0.8, "rank-one": 0.8}  # A change of low rank makes no network by itself.
JITTER = 0.01  # Deviation of the full-rank noise of `gpvi` at the start.
CHOICES = {
    "diversity": ("latent-gan", "svgd", "function-svgd", "gpvi", "none"),
    "batches": ("own", "shared"),
    "head": ("auto", "full", "chunked", "low-rank", "rank-one", "last-layer"),
    "initialisation": ("hyperfan-in", "hyperfan-out", "given"),
    "norms": ("recalibrate", "shared"),
    "calling": ("auto", "vmap", "chunk", "loop", "fused"),
}


@dataclass(frozen=True)
class HyperGAN(Method):
    """A generator that draws whole, diverse networks of the user's architecture.

    Noise s ~ N(0, I) goes through a mixer Q to one code a layer, and through one generator a layer to that layer's
    weights. Minimised over Q and G is the task loss of the drawn networks, E_s L(F(x; G(Q(s))), y), plus `beta` times
    the adversarial loss that keeps each code spread like N(0, I), judged by a discriminator shared by all layers. The
    form predicts with `members` draws and draws as many more as one likes.

    It is not an approximation of a posterior: there is neither a prior on the weights nor an entropy term. Diversity
    decays as training goes on; of all epochs the one with the lowest ensemble loss on the validation split is kept
    where `training.patience` is given, and `form.history` holds the curves. `form.choices` says which head was taken
    and why, how close the codes came to the prior before training, and how networks are computed.

    Differs from the released code, see `docs/decisions/0010-hypergan-by-its-equations.md`.

    Args:
        members: Draws that the form predicts with.
        diversity: What keeps the draws apart: `latent-gan`, the latent discriminator; `svgd` and `function-svgd`,
            repulsion of weights or of outputs; `gpvi`, the entropy of the generator; or `none`.
        beta: Weight of the adversarial loss.
        repulsion: Weight of the repulsion or entropy in the other three; 1 / samples is the posterior, at which it is
            hardly seen.
        networks: Networks drawn in a training step (B).
        batches: A minibatch of its own for each of them (`own`, less gradient noise at the same cost), or one for all
            (`shared`, as published, and always so in `function-svgd`).
        head: What the generator puts out: all weights (`full`), weights in pieces from one shared map (`chunked`),
            low-rank or rank-one changes of weights that all draws share, only the last layer; `auto` by size.
        mixer: Without it every layer gets a code of its own, independent of the others (the paper's ablation).
        noise_size: Length of s.
        code_size: Length of a code.
        hidden: Width of the hidden layers of mixer, generators and discriminator.
        shared_fraction: Correlation between the weights of two draws at the start of training; `None` for 0 where every
            weight is generated, and 0.8 where changes of shared weights are (`low-rank`, `rank-one`).
        initialisation: Variance of drawn weights at the start, by fan-in or fan-out of the layer they go to; or
            around the `given` weights, with a deviation of `1 - shared_fraction` of their variance.
        norms: BatchNorm of drawn members: statistics of their own (`recalibrate`), or those of the given network.
        calling: How networks are computed in training; `auto` times one step of each way and records the choice.
            `fused` takes chains of convolutions, linear layers, pools and nonlinearities on the CPU.
        training: How long and how fast; batch size is that of one network.

    References:
        Ratzlaff, Li 2019, HyperGAN: A Generative Model for Diverse, Performant Neural Networks, ICML,
        arXiv:1901.11058.
    """

    members: int = 20
    diversity: Literal["latent-gan", "svgd", "function-svgd", "gpvi", "none"] = "latent-gan"
    beta: float | int = 0.1
    repulsion: float | int = 0.02
    networks: int = 8
    batches: Literal["own", "shared"] = "own"
    head: Literal["auto", "full", "chunked", "low-rank", "rank-one", "last-layer"] = "auto"
    mixer: bool = True
    noise_size: int = 256
    code_size: int = 64
    hidden: int = 256
    shared_fraction: float | int | None = None
    initialisation: Literal["hyperfan-in", "hyperfan-out", "given"] = "hyperfan-in"
    norms: Literal["recalibrate", "shared"] = "recalibrate"
    calling: Literal["auto", "vmap", "chunk", "loop", "fused"] = "auto"
    training: Recipe = field(default_factory=lambda: Recipe(learning_rate=1e-3, weight_decay=1e-4, patience=10))

    def __post_init__(self) -> None:
        require(self, self.members >= 1, "members", "at least 1")
        require(self, self.networks >= 1, "networks", "at least 1")
        require(self, self.beta >= 0, "beta", "0 or more")
        require(self, self.repulsion >= 0, "repulsion", "0 or more")
        require(self, self.shared_fraction is None or 0 <= self.shared_fraction < 1, "shared_fraction", "in [0, 1)")
        require(self, self.noise_size >= 1, "noise_size", "at least 1")
        require(self, self.code_size >= 1, "code_size", "at least 1")
        require(self, self.hidden >= 2, "hidden", "at least 2")
        for name, known in CHOICES.items():
            require(self, getattr(self, name) in known, name, "one of " + ", ".join(known))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        template = module.to(context.device)
        self._check_norms(template, data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(context.seed, "generator"))
            generator, choices = self._generator(template, data, context)
            objective = self._objective(generator)
        training = GameTraining(
            Game(template, generator, objective).to(context.device),
            self.training,
            data,
            context,
            networks=self.networks,
            own_batches=self.batches == "own" and self.diversity != "function-svgd",
            calling=self.calling,
        )
        cost = training.run()
        form = Drawn(
            template.eval(),
            generator.eval(),
            draw_seeds(self.members, derive_seed(context.seed, "members")),
            data.signature,
            calibration=calibration_inputs(template, data, context.seed),
            norms=self.norms,
            cost=cost.to_json(),
            history=training.history,
        )
        form.choices = choices | {"calling": training.setting.calling.to_json()}
        form.noise = fitted_noise(form, data)
        return form

    def _objective(self, generator: WeightGenerator) -> nn.Module:
        repulsion = float(self.repulsion)
        if self.diversity == "latent-gan":
            return LatentGAN(Discriminator(self.code_size, self.hidden), float(self.beta))
        if generator.jitter is not None:
            return FunctionalGradient(generator.jitter, repulsion)
        return {"svgd": SVGD(repulsion), "function-svgd": FunctionSVGD(repulsion), "none": TaskOnly()}[self.diversity]

    def _check_norms(self, template: nn.Module, data: Data) -> None:
        """BatchNorm needs two samples wherever it takes statistics, and shared ones weights that they belong to."""
        if not has_statistics(template):
            return
        where = type(template).__name__
        counts = {"training.batch_size=1": self.training.batch_size, "1 validation sample": len(data.validation)}
        for got, count in counts.items():
            if count == 1:
                remedy = "take more, or a network without BatchNorm"
                raise ConfigError(explain("at least 2 samples a step for BatchNorm", got, where, remedy))
        if self.norms == "shared" and self.initialisation != "given":
            expected = "initialisation='given' where draws share the running statistics of the given network"
            got, remedy = f"initialisation={self.initialisation!r}", "use norms='recalibrate', or the given weights"
            raise ConfigError(explain(expected, got, where, remedy))

    def _generator(
        self, template: nn.Module, data: Data, context: FitContext
    ) -> tuple[WeightGenerator, dict[str, Any]]:
        """The generator before training, and what was chosen and found out on the way."""
        layers = layers_of(template)
        example, _ = take(data.train, torch.arange(min(2, len(data.train))))
        last = layers_of(template, "last", example=example.to(context.device))
        choice = choose_head(layers, self.code_size, self.hidden, self.head, members=self.networks, last=last)
        if choice.mode == "last-layer":
            layers = last
        if self.initialisation != "given":
            reinitialise(template, derive_seed(context.seed, "base"))
        given = {name: tensor.detach().cpu() for name, tensor in template.named_parameters()}
        deviations = deviations_of(layers, self.initialisation, given=given)
        fraction = SHARED.get(choice.mode, 0.0) if self.shared_fraction is None else self.shared_fraction
        shares = {name: split(deviation, fraction) for name, deviation in deviations.items()}
        base = {
            entry.name: self._base(entry, given[entry.name], shares[entry.name])
            for layer in layers
            for entry in layer.entries
        }
        varying = {name: share.varying for name, share in shares.items()}
        head = make_head(choice.mode, layers, self.code_size, self.hidden, varying)
        size = sum(value.numel() for value in base.values())
        mixer = self._mixer(len(layers), size)
        choices: dict[str, Any] = {"head": choice.to_json()}
        if isinstance(mixer, Mixer):
            noise = torch.Generator().manual_seed(derive_seed(context.seed, "pretraining"))
            choices["pretraining"] = dataclasses.asdict(pretrain(mixer, noise))
        if context.run is not None:
            context.run.write_json("choices.json", choices)
        jitter = None
        if self.diversity == "gpvi":
            jitter = GPVI(mixer.noise_size, size, JITTER, hidden=self.hidden, rounds=1)
        return WeightGenerator(mixer, head, base, jitter), choices

    def _mixer(self, layers: int, size: int) -> Mixer | Independent:
        """The mixer of `layers` codes; in `gpvi` its noise is the first part of one of the weights' size."""
        if not self.mixer:
            made = Independent(layers, self.code_size)
            require(self, self.diversity != "gpvi" or made.noise_size <= size, "code_size", f"at most {size // layers}")
            return made
        noise_size = min(self.noise_size, size) if self.diversity == "gpvi" else self.noise_size
        return Mixer(noise_size, layers, self.code_size, self.hidden)

    def _base(self, entry: Entry, given: Tensor, shares: Shares) -> Tensor:
        """What all draws share at the start."""
        if self.initialisation == "given" or entry.kind in ("scale", "shift", "other"):
            return given
        return torch.randn(entry.shape) * shares.base

"""The training of a generator of networks: drawn networks learn the task, codes are kept spread by an adversary."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.ensemble.calling import Calling
from pluriform.ensemble.hypergan.discriminator import Discriminator
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.gradients import CHUNK, gradients_of, measured_calling, surrogate
from pluriform.ensemble.hypergan.selection import Selection
from pluriform.method import FitContext
from pluriform.training.cost import FitCost
from pluriform.training.feed import Batch, Feed
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed

__all__ = ["Game", "GameTraining"]

RECORD = "calling.json"
CODES_A_STEP = 256  # Noise vectors of the adversarial game in a step; they cost nothing beside the networks.


class Game(nn.Module):
    """Everything that is trained: one optimiser over all of it, gradients kept apart by the losses.

    Args:
        template: The network that is drawn; its weights that are not drawn are trained beside the generator.
        generator: Draws the weights.
        discriminator: Judges the codes; `None` for no adversary.
    """

    def __init__(self, template: nn.Module, generator: WeightGenerator, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.template, self.generator, self.discriminator = template, generator, discriminator


class GameTraining:
    """One fit of a game.

    Args:
        game: Trained in place.
        recipe: Hyper-parameters of the loop.
        networks: Networks drawn in a step.
        own_batches: A minibatch for each of them, or one for all.
        beta: Weight of the adversarial loss of the codes.
        calling: How networks are computed, or `auto`.
        data: Data set.
        context: Seed, run and device.
    """

    def __init__(
        self,
        game: Game,
        recipe: Recipe,
        *,
        networks: int,
        own_batches: bool,
        beta: float,
        calling: str,
        data: Data,
        context: FitContext,
    ) -> None:
        self.game, self.recipe, self.networks, self.own_batches, self.beta = game, recipe, networks, own_batches, beta
        self.data, self.context = data, context
        self.loss = Loss.of(recipe, data, context.device)
        seeds = [derive_seed(context.seed, "network", i) for i in range(networks)]
        self.feed = Feed(
            data, recipe.batch_size, seeds if own_batches else context.seed, recipe.augmentation, context.device
        )
        self.calling = self._calling(calling)
        self.selection = None
        if len(data.validation):
            seed = derive_seed(context.seed, "selection")
            self.selection = Selection(game.template, game.generator, data.validation, data.task, seed)
        self.history: dict[str, list[float]] = {}

    def _calling(self, asked: str) -> Calling:
        if asked != "auto":
            size = {"vmap": self.networks, "chunk": min(CHUNK, self.networks), "loop": 1}[asked]
            return Calling(asked, size, reason="as asked")  # type: ignore[arg-type]
        run = self.context.run
        if run is not None and run.has(RECORD):
            return Calling(**run.read_json(RECORD))
        generator = torch.Generator().manual_seed(self.context.seed)
        noise = torch.randn(self.networks, self.game.generator.noise_size, generator=generator)
        with torch.no_grad():
            weights = self.game.generator.weights(self.game.generator.codes(noise.to(self.context.device)))
        self.game.train()
        found = measured_calling(self.game.template, weights, next(self.feed.batches(0)), self.loss, self.own_batches)
        if run is not None:
            run.write_json(RECORD, found.to_json())
        return found

    def run(self) -> FitCost:
        """Train to the end; `history` then holds the figures of every epoch."""
        loop = Loop(
            self.game,
            self.step,
            self.feed,
            self.recipe,
            seed=self.context.seed,
            epochs=self.recipe.epochs_for(len(self.data.train)),
            run=self.context.run,
            validate=self.selection.assess if self.selection else None,
            label="generator",
        )
        cost = loop.run()
        self.history = columns_of(loop.history)
        return FitCost(
            cost.training_seconds, cost.epochs, cost.steps, cost.sample_passes * self.networks, cost.peak_memory
        )

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Loss of one step; its gradient plays both sides of the game."""
        generator = self.game.generator
        noise = torch.randn(self.networks, generator.noise_size, device=self.context.device)
        codes = generator.codes(noise)
        weights = generator.weights(codes)
        gradients = gradients_of(self.game.template, weights, batch, self.loss, self.calling, self.own_batches)
        total = surrogate(self.game.template, weights, gradients)
        figures = {"task_loss": gradients.losses}
        if self.game.discriminator is not None:
            more = torch.randn(CODES_A_STEP - self.networks, generator.noise_size, device=self.context.device)
            game = self.game.discriminator.losses(torch.cat([codes, generator.codes(more)]))
            total = total + self.beta * game.codes + game.discriminator
            figures |= {"discriminator_loss": game.discriminator, "code_loss": game.codes}
        return {"loss": total, **figures}


def columns_of(history: list[dict[str, float | int]]) -> dict[str, list[float]]:
    """The figures of the epochs that were validated (of all, without validation), as columns."""
    rows = [figures for figures in history if "validation_loss" in figures] or history
    names = set(rows[0]).intersection(*rows) if rows else set()
    return {name: [float(figures[name]) for figures in rows] for name in sorted(names)}

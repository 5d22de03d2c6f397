"""The training of a generator of networks through the one loop."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.ensemble.calling import Calling, takes_channels_last
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.gradients import CHUNK, measured_calling
from pluriform.ensemble.hypergan.objectives import Setting
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


class Game(nn.Module):
    """Everything that is trained, by one optimiser; the objective keeps gradients apart.

    Args:
        template: The network that is drawn; its weights that are not drawn are trained beside the generator.
        generator: Draws the weights.
        objective: What a step minimises, with what it trains itself.
    """

    def __init__(self, template: nn.Module, generator: WeightGenerator, objective: nn.Module) -> None:
        super().__init__()
        self.template, self.generator, self.objective = template, generator, objective


class GameTraining:
    """One fit of a game.

    Args:
        game: Trained in place.
        recipe: Hyper-parameters of the loop.
        data: Data set.
        context: Seed, run and device.
        networks: Networks drawn in a step.
        own_batches: A minibatch for each of them, or one for all.
        calling: How networks are computed, or `auto`.

    Attributes:
        history: Columns of figures of the validated epochs, after `run`; `kept` is 1 at the epoch that was kept.
    """

    def __init__(
        self,
        game: Game,
        recipe: Recipe,
        data: Data,
        context: FitContext,
        *,
        networks: int,
        own_batches: bool,
        calling: str,
    ) -> None:
        self.game, self.recipe, self.data, self.context = game, recipe, data, context
        seeds = [derive_seed(context.seed, "network", i) for i in range(networks)]
        self.feed = Feed(
            data, recipe.batch_size, seeds if own_batches else context.seed, recipe.augmentation, context.device
        )
        loss = Loss.of(recipe, data, context.device)
        self.setting = Setting(
            game.template,
            game.generator,
            loss,
            self._calling(calling, loss, networks, own_batches),
            own_batches,
            networks,
            len(data.train),
            data.bounds,
            context.device,
        )
        self.history: dict[str, list[float]] = {}

    def _calling(self, asked: str, loss: Loss, networks: int, own_batches: bool) -> Calling:
        if asked != "auto":
            size = {"vmap": networks, "chunk": min(CHUNK, networks), "loop": 1, "fused": min(CHUNK, networks)}[asked]
            fits = asked == "loop" and takes_channels_last(self.game.template, self.feed.sample())
            return Calling(asked, size, fits, "as asked")  # type: ignore[arg-type]
        run = self.context.run
        if run is not None and run.has(RECORD):
            return Calling(**run.read_json(RECORD))
        seeds = [derive_seed(self.context.seed, "trial", i) for i in range(networks)]
        with torch.no_grad():
            weights = self.game.generator.draw(seeds)
        self.game.train()
        found = measured_calling(self.game.template, weights, next(self.feed.batches(0)), loss, own_batches)
        if run is not None:
            run.write_json(RECORD, found.to_json())
        return found

    def run(self) -> FitCost:
        """Train to the end."""
        validation, seed = self.data.validation, derive_seed(self.context.seed, "selection")
        template, generator = self.game.template, self.game.generator
        validate = Selection(template, generator, validation, self.data.task, seed).assess if len(validation) else None
        loop = Loop(
            self.game,
            self.step,
            self.feed,
            self.recipe,
            seed=self.context.seed,
            epochs=self.recipe.epochs_for(len(self.data.train)),
            run=self.context.run,
            validate=validate,
            label="generator",
        )
        cost = loop.run()
        self.game.zero_grad()
        self.history = loop.columns
        losses = self.history.get("validation_loss", [])
        best = min(losses) if self.recipe.patience and losses else None
        count = len(self.history.get("epoch", []))
        kept = count - 1 if best is None else losses.index(best)
        self.history["kept"] = [float(i == kept) for i in range(count)]
        passes = cost.sample_passes * self.setting.networks
        return FitCost(cost.training_seconds, cost.epochs, cost.steps, passes, cost.peak_memory)

    def step(self, batch: Batch) -> Mapping[str, Tensor]:
        """Figures of one step."""
        return self.game.objective(self.setting, batch)

"""`Game`: generator and discriminator in turn, by any rules, resumable at every update."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Adam

from pluriform.graph.parameters import weights_of
from pluriform.method import FitContext
from pluriform.training.average import MovingAverage
from pluriform.training.checkpoint import load_weights
from pluriform.training.iterations import Iterations
from pluriform.training.layout import contiguous
from pluriform.translate.album import Album
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.image_feed import ImageBatch, ImageFeed
from pluriform.translate.spectral_norm import settle
from pluriform.translate.watch import Watch

__all__ = ["Game", "Rules"]

LAZY = 16  # Updates between two R1 penalties, each as many times heavier.


@runtime_checkable
class Rules(Protocol):
    """What the players of a game minimise."""

    @property
    def generator(self) -> nn.Module:
        """All that the generator's optimiser trains, encoders and second generators included."""
        ...

    @property
    def discriminator(self) -> nn.Module:
        """All that the other optimiser trains."""
        ...

    def generator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """`generator`, which is minimised, and its parts."""
        ...

    def fakes(self, batch: ImageBatch) -> dict[str, Tensor]:
        """What the discriminator is shown, drawn without gradients."""
        ...

    def discriminator_losses(self, batch: ImageBatch, fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`discriminator`, which is minimised, and `told_apart`, the share of patches that are told right."""
        ...

    def r1(self, batch: ImageBatch) -> Tensor:
        """The R1 penalty on the real images of a batch, without its weight."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Further tensors that steps change in place."""
        ...


class Game:
    """One game.

    Everything that changes is in the tensors of `tensors()` and in the two optimisers, and every draw comes from the
    number of the update: an interrupted game goes on bit for bit on the CPU.

    Args:
        rules: Networks and losses.
        feed: The batches.
        recipe: Hyper-parameters.
        device: Where to compute.
        label: Names checkpoint and log lines.
        album: Keeps translations over the training.

    Attributes:
        watch: What was noticed.
        average: The generator's moving average; `None` without one.
    """

    def __init__(
        self,
        rules: Rules,
        feed: ImageFeed,
        recipe: GameRecipe,
        device: torch.device,
        label: str = "game",
        album: Album | None = None,
    ) -> None:
        self.album = album
        self.rules, self.feed, self.recipe, self.device, self.label = rules, feed, recipe, device, label
        betas = (float(recipe.beta1), float(recipe.beta2))
        self.rates = (float(recipe.generator_rate), float(recipe.discriminator_rate))
        self.players = (rules.generator, rules.discriminator)
        self.parameters = [[p for p in player.parameters() if p.requires_grad] for player in self.players]
        self.optimizers = [
            Adam(own, lr=rate, betas=betas, fused=True) for own, rate in zip(self.parameters, self.rates, strict=True)
        ]
        self.average = None if recipe.ema is None else MovingAverage(rules.generator, float(recipe.ema))
        self.watch = Watch(label)

    def run(self, context: FitContext) -> Iterations:
        """Play all updates that are left; afterwards the generator holds its average.

        Raises:
            DivergenceError: A loss left the finite numbers.
            CorruptFileError: The checkpoint cannot be read, or is one of other networks.
        """
        work = Iterations(
            self.step,
            self.recipe.updates,
            self.tensors(),
            optimizers=self.optimizers,
            seed=context.seed,
            device=context.device,
            run=context.run,
            label=self.label,
            remedy=f"lower the rates (now {self.rates[0]:g} and {self.rates[1]:g}), or give r1=10",
        )
        self._train(True)
        work.run()
        self._train(False)
        if self.average is not None:
            load_weights(self.rules.generator, self.average.weights)
            settle(self.rules.generator)
        for player in self.players:
            player.zero_grad(set_to_none=True)
            contiguous(player)
        return work

    def tensors(self) -> dict[str, Tensor]:
        """All state by name, as it is."""
        found = {"watch": self.watch.state}
        found |= {"album": self.album.pictures} if self.album else {}
        for name, player in zip(("generator", "discriminator"), self.players, strict=True):
            found |= {f"{name}/{part}": tensor for part, tensor in weights_of(player).items()}
        if self.average is not None:
            found |= {f"average/{part}": tensor for part, tensor in self.average.weights.items()}
        return found | {f"rules/{part}": tensor for part, tensor in self.rules.state().items()}

    def step(self, update: int) -> Mapping[str, float]:
        """One step of the generator, then one of the discriminator; figures of both."""
        factor = self.recipe.factor(update)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        batch = self.feed.at(update)
        found = self._generator_step(batch)
        if self.average is not None:
            self.average.update(update)
        found |= self._discriminator_step(batch, update)
        values = torch.stack([value.detach().double().mean() for value in found.values()]).tolist()
        figures = dict(zip(found, values, strict=True))
        self.watch.see(update, figures)
        if self.album is not None and update + 1 in self.album.moments:
            with self._averaged():
                self.album.keep(update + 1, self.rules.generator)
        return figures

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The generator is inside what it would be after the last update."""
        if self.average is None:
            yield
            return
        with self.average.applied():
            settle(self.rules.generator)
            yield

    def _generator_step(self, batch: ImageBatch) -> dict[str, Tensor]:
        self._frozen(1, True)  # Neither gradients nor power iterations of the discriminator.
        try:
            with self._arithmetic():
                losses = self.rules.generator_losses(batch)
            self._descend(0, losses["generator"])
        finally:
            self._frozen(1, False)
        return losses

    def _discriminator_step(self, batch: ImageBatch, update: int) -> dict[str, Tensor]:
        with torch.no_grad(), self._arithmetic():
            fakes = self.rules.fakes(batch)
        with self._arithmetic():
            losses = self.rules.discriminator_losses(batch, fakes)
        loss = losses["discriminator"]
        if self.recipe.r1 and update % LAZY == 0:
            loss = loss + LAZY * float(self.recipe.r1) * self.rules.r1(batch)
        self._descend(1, loss)
        return losses

    def _descend(self, player: int, loss: Tensor) -> None:
        self.optimizers[player].zero_grad()
        loss.backward()
        self.optimizers[player].step()

    def _frozen(self, player: int, frozen: bool) -> None:
        for parameter in self.parameters[player]:
            parameter.requires_grad_(not frozen)

    def _train(self, training: bool) -> None:
        for player in self.players:
            player.train(training)

    def _arithmetic(self) -> AbstractContextManager:
        if self.recipe.precision == "32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

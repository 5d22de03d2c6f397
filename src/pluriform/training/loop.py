"""The one training loop: batches through a step closure into an optimiser, resumable at any step."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.errors import DivergenceError, explain
from pluriform.graph.parameters import weights_of
from pluriform.runs import Run
from pluriform.training.average import MovingAverage
from pluriform.training.checkpoint import (
    Checkpoint,
    damaged,
    load_weights,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)
from pluriform.training.cost import FitCost, peak_resident
from pluriform.training.early_stopping import EarlyStopping
from pluriform.training.feed import Batch, Feed
from pluriform.training.guard import Guard
from pluriform.training.interrupt import Interrupt, deferred_interrupt
from pluriform.training.layout import contiguous
from pluriform.training.optimisation import autocast_of, clip_gradients, make_optimizer
from pluriform.training.progress import Progress
from pluriform.training.recipe import Recipe
from pluriform.training.schedule import learning_rate_factor
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment

__all__ = ["CHECKPOINT_SECONDS", "Loop", "Step"]

Step = Callable[[Batch], Tensor | Mapping[str, Tensor]]

CHECKPOINT_SECONDS = 10.0
CHECKPOINT_SHARE = 0.02  # Of the time, at most, goes into checkpoints.
LOOK_EVERY = 50  # Steps between looks at the loss on a GPU, where each look waits for the device.
ASSESSMENTS = 50  # Validations over a training without early stopping.
NEVER = 2**62  # So many epochs never come.


class Loop:
    """Train `network` in place.

    Each step: the closure gives the loss of a batch, one number or one a stacked member (whose sum is differentiated),
    or a mapping with `loss` and further numbers for the log; then backward pass, clipping, optimiser, moving average.
    Validation, log and checkpoint follow at the end of an epoch; a checkpoint also after every 10 s.

    Given a run, `run()` goes on from the checkpoint it holds; the weights are then those of an uninterrupted training,
    bit for bit on the CPU. Random draws of the network (dropout) come from torch's default generators, seeded inside
    `fork_rng`. State of the network outside its parameters and buffers is not in the checkpoint.

    Args:
        network: What is trained; all its trainable parameters.
        step: Batch to loss.
        feed: The batches.
        recipe: Hyper-parameters.
        seed: Of the network's own draws.
        epochs: Passes over the training split.
        run: Keeps checkpoint and log; `None` keeps nothing.
        validate: Figures on the validation split, the network left in any mode; needed for early stopping.
        members: Number of stacked members, where every tensor of the network has a leading member axis.
        extra: Further tensors that steps change in place; checkpoints keep them.
        guard: Is asked before every update; what it refuses is rolled back.
        keep_best: End with the weights of the best validation, also where nothing stops early.
        factors: Of the learning rate, by dotted path of a submodule.
        label: Names checkpoint, log lines and bar.
    """

    def __init__(
        self,
        network: nn.Module,
        step: Step,
        feed: Feed,
        recipe: Recipe,
        *,
        seed: int,
        epochs: int,
        run: Run | None = None,
        validate: Callable[[], Assessment] | None = None,
        members: int | None = None,
        extra: Mapping[str, Tensor] | None = None,
        guard: Guard | None = None,
        keep_best: bool = False,
        factors: Mapping[str, float] | None = None,
        label: str = "training",
    ) -> None:
        self.network, self.closure, self.feed, self.recipe = network, step, feed, recipe
        self.seed, self.epochs, self.run_folder, self.validate = seed, epochs, run, validate
        self.members, self.label, self.device = members, label, feed.device
        self.extra, self.guard = dict(extra or {}), guard
        self.optimizer = make_optimizer(network, recipe, factors)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.average = MovingAverage(network, float(recipe.ema)) if recipe.ema is not None else None
        patience = recipe.patience or (NEVER if keep_best else None)
        self.stopping = EarlyStopping(weights_of(network), patience, members) if patience and validate else None
        self.autocast = autocast_of(recipe, self.device)
        self.steps = epochs * feed.steps
        self.every = 1 if recipe.patience and validate else max(1, math.ceil(epochs / ASSESSMENTS))
        self.epoch, self.position, self.finished = 0, 0, False
        self.sums: dict[str, Any] = {}
        self.history: list[dict[str, float | int]] = []  # The figures of every epoch, as in the log.
        self.earlier = 0.0  # Seconds of earlier sittings.
        self.begin = self.saved = time.perf_counter()
        self.saving = 0.0  # Seconds that the last checkpoint took.
        self.file = f"checkpoint/{label}.safetensors"

    def run(self) -> FitCost:
        """Train to the end.

        Returns:
            What it cost, earlier sittings of the run included.

        Raises:
            DivergenceError: The loss or the weights left the finite numbers.
            RunError: A checkpoint could not be written; the one before is intact.
            CorruptFileError: The checkpoint cannot be read.
            KeyboardInterrupt: Ctrl-C, after a checkpoint.
        """
        self.begin = self.saved = time.perf_counter()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self.seed, "draws"))
            self._resume()
            if self.finished:
                contiguous(self.network)
                return self._cost()
            progress = Progress(self.label, self.steps, self.run_folder, self.recipe.tensorboard)
            progress.rewind(self.epoch, self._done)
            try:
                with deferred_interrupt() as interrupt:
                    while self.epoch < self.epochs and not self._ended:
                        self._run_epoch(progress, interrupt)
                self._mend(progress)
            finally:
                progress.close()
            self._finish()
            if interrupt.requested:  # In the last look at the validation split.
                raise KeyboardInterrupt
        return self._cost()

    def change_length(self, epochs: int) -> None:
        """Train for so many epochs in all; the learning rate falls accordingly."""
        self.epochs, self.steps = epochs, epochs * self.feed.steps

    @property
    def columns(self) -> dict[str, list[float]]:
        """The figures of the epochs that were validated (of all, without validation), as columns."""
        rows = [figures for figures in self.history if "loss" in figures] or self.history  # Not epochs of roll-backs.
        rows = [figures for figures in rows if "validation_loss" in figures] or rows
        names = set(rows[0]).intersection(*rows) if rows else set()
        return {name: [float(figures[name]) for figures in rows] for name in sorted(names)}

    def _run_epoch(self, progress: Progress, interrupt: Interrupt) -> None:
        self.network.train()
        for batch in self.feed.batches(self.epoch, self.position):
            trips = len(self.guard.trips) if self.guard else 0
            losses = self._step(batch)
            if self.guard and len(self.guard.trips) > trips:
                progress.roll_back(self.epoch + 1, self.guard.trips[-1].to_json())
            self.position += 1
            progress.step(self._done, losses)
            if self.guard and self.guard.exhausted:
                return
            if interrupt.requested:
                self._save()
                raise KeyboardInterrupt
            if self._due(CHECKPOINT_SECONDS):
                self._save()
        self._check_finite(float(self.sums.get("loss", 0.0)))
        counted = self.feed.steps - self._left_out
        figures = {name: float(total) / counted for name, total in self.sums.items()}
        self.epoch, self.position, self.sums = self.epoch + 1, 0, {}
        figures |= self._validate()
        progress.steps = self.steps  # Which a look at the clock may have changed.
        rate = self.optimizer.param_groups[0]["lr"]
        self.history.append({"epoch": self.epoch, **figures, "learning_rate": rate, "seconds": self._seconds})
        progress.epoch(self.history[-1])
        if self._due(0.0):
            self._save()

    def _step(self, batch: Batch) -> float:
        """One update; the loss, or NaN on a GPU, which is not waited for."""
        self._set_learning_rate()
        if self.guard and not self._done:
            self.guard.keep(0, self._live())
        with self.autocast():
            found = self.closure(batch)
        values = found if isinstance(found, Mapping) else {"loss": found}
        if self.guard and (reason := self.guard.check(values)):
            self.guard.restore(self._done, self._live(), reason)  # The batch is left out.
            return math.nan
        self.optimizer.zero_grad()
        values["loss"].sum().backward()
        if self.recipe.clip_norm is not None:
            clip_gradients(self.parameters, float(self.recipe.clip_norm), self.members)
        loss = self._add(values)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self._done)
        if self.guard:
            self.guard.keep(self._done + 1, self._live())
        return loss

    def _live(self) -> dict[str, Tensor]:
        """Everything that a roll-back restores: weights, optimiser and averages, as they are."""
        tensors = _prefixed("weights", weights_of(self.network))
        tensors |= _prefixed("optimizer", optimizer_tensors(self.optimizer))
        return tensors | (_prefixed("average", self.average.weights) if self.average else {})

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(self.recipe.schedule, self._done, self.steps, float(self.recipe.warmup))
        factor *= self.guard.rate if self.guard else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor * group["factor"]

    def _add(self, values: Mapping[str, Tensor]) -> float:
        """Add the figures of a step to the sums of the epoch."""
        on_cpu = self.device.type == "cpu"
        for name, value in values.items():
            mean = value.detach().mean()
            self.sums[name] = self.sums.get(name, 0.0) + (mean.item() if on_cpu else mean)
        if on_cpu or self._done % LOOK_EVERY == 0:
            self._check_finite(float(self.sums["loss"]))
        return float(values["loss"].detach().mean()) if on_cpu else math.nan

    def _validate(self) -> dict[str, float]:
        """Figures for the log; early stopping takes them in."""
        if self.validate is None or (self.epoch % self.every and self.epoch < self.epochs):
            return {}
        with self.average.applied() if self.average else nullcontext(weights_of(self.network)) as weights:
            found = self.validate()
            if self.stopping:
                self.stopping.update(found.loss if found.criterion is None else found.criterion, weights)
        return found.log()

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            place = f"epoch {self.epoch + 1}, step {self.position + 1} of {self.feed.steps}"
            raise self._divergence("a finite loss", f"{loss}", place)

    def _check_validated(self, best: Tensor) -> None:
        """Raise where no look at the validation split gave a number: no weights are the best."""
        if not self.guard and not bool(best.isfinite().all()):
            raise self._divergence(
                "a finite validation loss", "NaN or infinity after every epoch", "after the last step"
            )

    def _divergence(self, expected: str, got: str, place: str) -> DivergenceError:
        remedy = (
            f"lower the learning rate (now {self.recipe.learning_rate}), clip gradients (clip_norm=1.0), "
            "or check the scale of inputs and targets"
        )
        return DivergenceError(explain(expected, got, f"{self.label}, {place}", remedy))

    @property
    def _ended(self) -> bool:
        """Whether early stopping or the guard ends the training before its last epoch."""
        return bool((self.stopping and self.stopping.stopped) or (self.guard and self.guard.exhausted))

    def _mend(self, progress: Progress) -> None:
        """Roll back where the very last update ruined the weights, which no further step would notice."""
        if self.guard and not all(bool(tensor.isfinite().all()) for tensor in self.parameters):
            trip = self.guard.restore(self._done, self._live(), "NaN or infinity in the weights after the last step")
            progress.roll_back(self.epoch, trip.to_json())

    def _finish(self) -> None:
        """Put the result into the network and mark the checkpoint as finished."""
        if self.stopping:
            self._check_validated(self.stopping.loss)
        if self.stopping and bool(self.stopping.loss.isfinite().all()):
            load_weights(self.network, self.stopping.best)
        elif self.average:
            load_weights(self.network, self.average.weights)
        for name, tensor in self.network.named_parameters():
            if not bool(torch.isfinite(tensor.detach()).all()):
                raise self._divergence("finite weights", f"NaN or infinity in {name}", "after the last step")
        contiguous(self.network)
        self.optimizer.zero_grad()  # The form would keep the last gradients, as large as its weights.
        self.earlier, self.finished = self._seconds, True
        if self.run_folder is not None:
            tensors = _prefixed("weights", weights_of(self.network)) | _prefixed("extra", self.extra)
            tensors |= {"stopping/loss": self.stopping.loss} if self.stopping else {}
            Checkpoint(tensors, self._state()).write(self.run_folder, self.file)

    def _due(self, interval: float) -> bool:
        """Whether a checkpoint may be written now: `interval` is over and checkpoints keep to their share of time."""
        if self.run_folder is None:
            return False
        return time.perf_counter() - self.saved >= max(interval, self.saving / CHECKPOINT_SHARE)

    def _save(self) -> None:
        if self.run_folder is None:
            return
        self._check_finite(float(self.sums.get("loss", 0.0)))
        begin = time.perf_counter()
        tensors = self._live() | _prefixed("extra", self.extra)
        tensors |= _prefixed("random", random_state(self.device))
        tensors |= _prefixed("stopping", self.stopping.tensors()) if self.stopping else {}
        tensors |= _prefixed("guard", self.guard.tensors()) if self.guard else {}
        Checkpoint(tensors, self._state()).write(self.run_folder, self.file)
        self.saved = time.perf_counter()
        self.saving = self.saved - begin

    def _state(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "epoch": self.epoch,
            "position": self.position,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "history": self.history,
            "seconds": self._seconds,
            "finished": self.finished,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **({"guard": self.guard.state()} if self.guard else {}),
        }

    def _resume(self) -> None:
        if self.run_folder is None or not self.run_folder.has(self.file):
            return
        found = Checkpoint.read(self.run_folder, self.file)
        try:
            load_weights(self.network, found.part("weights"))
            for name, tensor in self.extra.items():
                tensor.copy_(found.tensors[f"extra/{name}"])
            if self.guard:
                self.guard.resume(found.state["guard"], found.part("guard"))
            if not found.state["finished"]:
                restore_optimizer(self.optimizer, found.part("optimizer"))
                for group in self.optimizer.param_groups:
                    group["lr"] = found.state.get("learning_rate", group["lr"])
                restore_random_state(self.device, found.part("random"))
                if self.average:
                    self.average.restore(found.part("average"))
                if self.stopping:
                    self.stopping.restore(found.part("stopping"))
            elif self.stopping and "stopping/loss" in found.tensors:
                self.stopping.loss = found.tensors["stopping/loss"]
            self.change_length(found.state.get("epochs", self.epochs))
            self.epoch, self.position = found.state["epoch"], found.state["position"]
            self.sums, self.earlier = found.state["sums"], found.state["seconds"]
            self.history = found.state["history"]
            self.finished = found.state["finished"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise damaged(self.run_folder, self.file, error) from error

    @property
    def _done(self) -> int:
        return self.epoch * self.feed.steps + self.position

    @property
    def _left_out(self) -> int:
        """Steps of this epoch that were rolled back and are not in its sums."""
        return sum(trip.step >= self.epoch * self.feed.steps for trip in self.guard.trips) if self.guard else 0

    @property
    def _seconds(self) -> float:
        return self.earlier if self.finished else self.earlier + time.perf_counter() - self.begin

    def _cost(self) -> FitCost:
        samples = self._done * self.feed.batch_size * (self.members or 1)
        return FitCost(self._seconds, self.epoch, self._done, samples, peak_resident(self.device))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor.detach() for name, tensor in tensors.items()}

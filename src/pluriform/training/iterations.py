"""Steps that are no epochs of a training, resumable at any of them: Langevin dynamics, adversarial games."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pluriform.errors import DivergenceError, explain
from pluriform.runs import Run
from pluriform.training.checkpoint import (
    Checkpoint,
    damaged,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
)
from pluriform.training.interrupt import Interrupt, deferred_interrupt
from pluriform.training.loop import CHECKPOINT_SECONDS, CHECKPOINT_SHARE
from pluriform.training.progress import Progress
from pluriform.training.seeds import derive_seed

__all__ = ["Iterations"]

LINES = 50  # Of the log, over all steps.


class Iterations:
    """Call `step(i)` for i = 0 .. total - 1, so that a killed process goes on bit for bit on the CPU.

    Draws in a step come from torch's default generators, seeded inside `fork_rng`.

    Args:
        step: Does one step and returns figures for the log; one that is not finite ends the work.
        total: Number of steps.
        tensors: All state, by name; the same tensors throughout, which steps change in place.
        optimizers: Their states are kept too.
        seed: Of the draws.
        device: Where the steps compute.
        run: Keeps checkpoint and log; `None` keeps nothing.
        label: Names checkpoint and log lines.
        remedy: What to do where a figure is not finite.

    Attributes:
        history: Mean figures of every fiftieth of the steps, by name.
        seconds: Wall time so far, earlier sittings included.
    """

    def __init__(
        self,
        step: Callable[[int], Mapping[str, float]],
        total: int,
        tensors: Mapping[str, Tensor],
        *,
        optimizers: Sequence[Optimizer] = (),
        seed: int,
        device: torch.device,
        run: Run | None,
        label: str,
        remedy: str,
    ) -> None:
        self.step, self.total, self.tensors, self.optimizers = step, total, dict(tensors), list(optimizers)
        self.seed, self.device, self.run_folder, self.label, self.remedy = seed, device, run, label, remedy
        self.every = max(1, math.ceil(total / LINES))
        self.done, self.seconds = 0, 0.0
        self.sums: dict[str, float] = {}
        self.history: dict[str, list[float]] = {}
        self.file = f"checkpoint/{label}.safetensors"
        self.saved, self.saving = time.perf_counter(), 0.0

    def run(self) -> None:
        """Do all steps that are left.

        Raises:
            DivergenceError: A figure left the finite numbers.
            RunError: A checkpoint could not be written; the one before is intact.
            CorruptFileError: The checkpoint cannot be read.
            KeyboardInterrupt: Ctrl-C, after a checkpoint.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self.seed, self.label))
            self._resume()
            if self.done == self.total:
                return
            progress = Progress(self.label, self.total, self.run_folder)
            progress.rewind(self.done // self.every)
            try:
                with deferred_interrupt() as interrupt:
                    self._advance(progress, interrupt)
            finally:
                progress.close()

    def _advance(self, progress: Progress, interrupt: Interrupt) -> None:
        earlier, begin = self.seconds, time.perf_counter()
        while self.done < self.total:
            figures = self.step(self.done)
            self.done += 1
            for name, value in figures.items():
                self._check(name, value)
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.seconds = earlier + time.perf_counter() - begin
            progress.step(self.done, next(iter(figures.values())))
            if self.done % self.every == 0 or self.done == self.total:
                self._line(progress)
            if interrupt.requested and self.done < self.total:
                self._save()
                raise KeyboardInterrupt
            if self.done == self.total or self._due():
                self._save()

    def _check(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            place = f"{self.label}, step {self.done} of {self.total}"
            raise DivergenceError(explain(f"a finite {name}", str(value), place, self.remedy))

    def _line(self, progress: Progress) -> None:
        steps = self.done % self.every or self.every
        figures = {name: total / steps for name, total in self.sums.items()}
        self.sums = {}
        for name, value in figures.items():
            self.history.setdefault(name, []).append(value)
        number = math.ceil(self.done / self.every)
        progress.epoch({"epoch": number, "steps": self.done, **figures, "seconds": self.seconds})

    def _due(self) -> bool:
        if self.run_folder is None:
            return False
        return time.perf_counter() - self.saved >= max(CHECKPOINT_SECONDS, self.saving / CHECKPOINT_SHARE)

    def _save(self) -> None:
        if self.run_folder is None:
            return
        begin = time.perf_counter()
        tensors = {f"state/{name}": tensor.detach() for name, tensor in self.tensors.items()}
        for index, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer{index}/{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()}
        tensors |= {f"random/{name}": tensor for name, tensor in random_state(self.device).items()}
        state = {"done": self.done, "seconds": self.seconds, "sums": self.sums, "history": self.history}
        Checkpoint(tensors, state).write(self.run_folder, self.file)
        self.saved = time.perf_counter()
        self.saving = self.saved - begin

    @torch.no_grad()
    def _resume(self) -> None:
        if self.run_folder is None or not self.run_folder.has(self.file):
            return
        found = Checkpoint.read(self.run_folder, self.file)
        try:
            for name, tensor in self.tensors.items():
                tensor.copy_(found.tensors[f"state/{name}"])
            for index, optimizer in enumerate(self.optimizers):
                restore_optimizer(optimizer, found.part(f"optimizer{index}"))
            restore_random_state(self.device, found.part("random"))
            state: dict[str, Any] = found.state
            self.done, self.seconds = state["done"], state["seconds"]
            self.sums, self.history = state["sums"], state["history"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise damaged(self.run_folder, self.file, error) from error

"""Memory of a training, predicted before it starts.

A step is run on the meta device, where nothing is computed, at the real batch size: forward, backward, optimiser. The
most bytes that live tensors hold at once are the prediction: parameters, their gradients, states of the optimiser,
what is kept for the backward pass, and what each operation holds for a moment. Scratch space inside operations is not
seen there; one measured step on the device gives the scale.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.available_memory import available_memory
from pluriform.data.data import Data
from pluriform.errors import MemoryBudgetError, explain
from pluriform.metrics.memory import peak_of
from pluriform.training.loss import Loss
from pluriform.training.optimisation import make_optimizer
from pluriform.training.recipe import Recipe

__all__ = [
    "MemoryModel",
    "check_shared_memory",
    "free_memory",
    "measured_bytes",
    "predicted_bytes",
    "ran_out_of_memory",
]

MEBIBYTE = 2**20
SHARE = 0.9
"""Of the free memory that trainings may take."""
FEW = (2, 4)
"""Batch sizes of steps that are computed, where the meta device cannot follow."""
STATES = {"adamw": 2, "sgd": 1}
"""Tensors that an optimiser keeps for each trained one."""
WORDS = ("out of memory", "allocate memory", "memoryerror", "by signal sigkill")


@dataclass(frozen=True)
class MemoryModel:
    """Predicts the bytes of a training, and says whether they fit.

    Attributes:
        cap: Most predicted bytes that are tried.
        scale: Bytes of one measured step over those predicted for it.
    """

    cap: float | int
    scale: float | int = 1.0

    def refusal(self, predicted: float | int) -> str:
        """Why a network of so many predicted bytes is not tried, in words; empty where it fits."""
        if self.scale * predicted <= self.cap:
            return ""
        needed, room = (f"{value / MEBIBYTE:,.0f} MiB" for value in (self.scale * predicted, self.cap))
        return f"out of memory before it began: about {needed} to train, of {room} that can be had"

    @staticmethod
    def calibrated(
        network: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe, loss: Loss, side_by_side: int = 1
    ) -> "MemoryModel":
        """A model whose scale is that of one measured step.

        Args:
            network: The start.
            inputs: A few, on the device of the trainings; a step of that many is measured.
            targets: Theirs.
            recipe: Batch size and optimiser.
            loss: Of outputs and targets.
            side_by_side: Trainings that share the memory.
        """
        predicted = predicted_bytes(network, inputs, targets, recipe, loss)
        measured = measured_bytes(network, inputs, targets, recipe, loss)
        return MemoryModel(SHARE * free_memory(inputs.device) / side_by_side, max(1.0, measured / max(predicted, 1)))


def predicted_bytes(
    network: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe, loss: Loss, batch_size: int | None = None
) -> float:
    """Most bytes that a training step holds at once, without computing one; the network stays as it was.

    Args:
        network: In any mode, on any device; counted in training mode.
        inputs: Examples of shape and type.
        targets: Theirs.
        recipe: Names the optimiser.
        loss: Of outputs and targets.
        batch_size: Samples of the step; as many as the examples by default.
    """
    size = batch_size or len(inputs)
    blank = [torch.empty((size, *part.shape[1:]), dtype=part.dtype, device="meta") for part in (inputs, targets)]
    try:
        return _blank_peak(copy.deepcopy(network).to("meta").train(), blank[0], blank[1], recipe, loss)
    except Exception:  # An operation that looks at numbers: compute two small steps, and go on in a line.
        rows = [torch.arange(few, device=inputs.device) % len(inputs) for few in FEW]
        small, large = (measured_bytes(network, inputs[index], targets[index], recipe, loss) for index in rows)
        return small + (large - small) / (FEW[1] - FEW[0]) * (size - FEW[0])


def measured_bytes(network: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe, loss: Loss) -> float:
    """Most bytes that a training step of a copy of the network holds at once, on the device of the inputs."""
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        copied = copy.deepcopy(network).to(inputs.device).train()
        optimizer = make_optimizer(copied, recipe)
        return _peak(copied, inputs, targets, loss, optimizer.step)


def _blank_peak(network: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe, loss: Loss) -> float:
    """With an optimiser that only holds its states, as the fused one does that there is for real devices."""
    states: list[Tensor] = []

    def step() -> None:
        if not states:
            trained = [weight for weight in network.parameters() if weight.requires_grad]
            states.extend(torch.empty_like(weight) for weight in trained for _ in range(STATES[recipe.optimizer]))

    return _peak(network, inputs, targets, loss, step)


def _peak(network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, step: Callable[[], Any]) -> float:
    def steps() -> None:
        for _ in range(2):  # The states of the optimiser come with the first.
            network.zero_grad()
            loss(network(inputs), targets).backward()
            step()

    held = (*network.parameters(), *network.buffers(), inputs, targets)
    return MEBIBYTE * peak_of(steps, held, inputs.device, "training").mebibytes


def free_memory(device: torch.device) -> float:
    """Bytes that a training could take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def check_shared_memory(data: Data) -> None:
    """Refuse data that processes cannot share: where that memory is too small, they would die without a word.

    Raises:
        MemoryBudgetError: With what is there and what to do.
    """
    place = Path("/dev/shm")
    tensors = [part for split in (data.train, data.validation, data.test) for part in vars(split).values()]
    needed = sum(part.numel() * part.element_size() for part in tensors if isinstance(part, Tensor))
    if place.is_dir() and (room := shutil.disk_usage(place).free) < needed:
        expected, got = f"{needed / MEBIBYTE:,.0f} MiB of shared memory", f"{room / MEBIBYTE:,.0f} MiB in {place}"
        remedy = "give more (docker run --shm-size), or use workers='serial'"
        raise MemoryBudgetError(explain(expected, got, f"processes on {data.name}", remedy))


def ran_out_of_memory(failure: str) -> bool:
    """Whether the words of a failure say that memory ran out."""
    words = failure.lower()
    return any(word in words for word in WORDS)

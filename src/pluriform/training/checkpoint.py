"""`Checkpoint`: everything from which a training goes on bit for bit, in one file."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from pluriform.errors import CorruptFileError, RunError, explain
from pluriform.graph.parameters import weights_of
from pluriform.runs import Run

__all__ = [
    "Checkpoint",
    "load_weights",
    "optimizer_tensors",
    "random_state",
    "restore_optimizer",
    "restore_random_state",
]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by name and plain numbers.

    Attributes:
        tensors: Weights, optimiser, averages and random states.
        state: JSON-able: position in the data, sums, seconds.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, by the rest of their names."""
        return {name.removeprefix(f"{prefix}/"): t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}

    def write(self, run: Run, name: str) -> None:
        """Replace the file `name` of the run in one step; on failure the old one stays.

        Raises:
            RunError: The disk is full or the folder cannot be written.
        """
        try:
            run.write_tensors(name, self.tensors, {"state": json.dumps(self.state)})
        except (OSError, SafetensorError) as error:
            raise RunError(
                explain(
                    "room for a checkpoint",
                    str(error),
                    str(run.path / name),
                    "free some space and start the same command again: the last good checkpoint is intact",
                )
            ) from error

    @staticmethod
    def read(run: Run, name: str) -> "Checkpoint":
        """Read the file `name` of the run.

        Raises:
            CorruptFileError: It is damaged.
        """
        tensors = run.read_tensors(name)
        try:
            with safe_open(run.path / name, "pt") as opened:
                state = json.loads(opened.metadata()["state"])
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise damaged(run, name, error) from None
        return Checkpoint(tensors, state)


def damaged(run: Run, name: str, error: Exception) -> CorruptFileError:
    """The error for a file that opens and does not hold what a checkpoint of this training holds."""
    return CorruptFileError(
        explain(
            "a checkpoint of this training",
            f"{type(error).__name__}: {error}",
            str(run.path / name),
            "delete this file to train from the start; the rest of the run is kept",
        )
    )


@torch.no_grad()
def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights`, as given by `weights_of`, into the network."""
    own = weights_of(network)
    if own.keys() != weights.keys():
        raise KeyError(f"weights {sorted(own.keys() ^ weights.keys())[:3]} differ")
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of the optimiser as `index/key` to tensor."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{key}": value
        for index, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        like = parameters[int(index)]
        # Fused kernels read state and parameter side by side: both need one memory layout.
        laid_out = (
            torch.empty_like(like, dtype=tensor.dtype) if tensor.shape == like.shape else torch.empty_like(tensor)
        )
        state.setdefault(int(index), {})[key] = laid_out.detach().copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's default generators in use."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(device: torch.device, states: dict[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)

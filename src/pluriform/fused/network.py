"""`FusedNetwork`: a network whose outputs and input gradients come from the fused kernels."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pluriform.fused.call import PackedCall
from pluriform.fused.chain import NotFused
from pluriform.fused.code import Call, Column, Opcode
from pluriform.fused.program import MOST_LANES, Program
from pluriform.fused.run import fused_outputs, fused_program
from pluriform.graph.parameters import modes_kept, weights_of

__all__ = ["FusedNetwork", "fused_network", "fusing_pays"]

PADDING = 16  # Numbers a sample beyond the places of a program.
MOST_KEPT = 2**26  # Numbers of a batch: 256 MB, as much as automatic differentiation would keep.
LEAST_MULTIPLICATIONS = 5e11  # Of all passes: below it, compiling the kernels may take longer.
MOST_PRODUCTS = 4e7  # A sample and pass: above it, layers are so large that PyTorch is as fast.


def fused_network(network: nn.Module, example: Tensor, passes: float | int) -> nn.Module:
    """A stand-in for a network in evaluation mode that computes faster, or the network itself where none pays.

    It follows changes of the weights. Gradients flow to its inputs alone.

    Args:
        network: In evaluation mode.
        example: Inputs of at least one sample.
        passes: Forwards and backwards, times samples, that are to come.
    """
    if not _worth_a_look(network, example[:1], passes):
        return network
    try:
        program = fused_program(network, _stacked(network), example)
    except NotFused:
        return network
    return FusedNetwork(network, program) if _pays(program, passes) else network


def fusing_pays(network: nn.Module, example: Tensor, passes: float | int) -> bool:
    """Whether fused kernels compute a network in evaluation mode, and its arithmetic outweighs their compilation.

    It is counted, not timed, so that a resumed training gives the same numbers. Arguments as in `fused_network`, but
    the network may be in any mode.
    """
    with modes_kept(network):
        try:
            program = fused_program(network.eval(), _stacked(network), example)
        except NotFused:
            return False
    return _pays(program, passes)


@torch.no_grad()
def _worth_a_look(network: nn.Module, example: Tensor, passes: float | int) -> bool:
    """Whether one pass, counted as it runs, is of the size that pays: reading a large form takes seconds."""
    from torch.utils.flop_counter import FlopCounterMode

    if example.device.type != "cpu" or MOST_PRODUCTS * passes < LEAST_MULTIPLICATIONS:
        return False
    with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        network(example)
    products = counter.get_total_flops() // 2
    return products <= MOST_PRODUCTS and products * passes >= LEAST_MULTIPLICATIONS


def _pays(program: Program, passes: float | int) -> bool:
    begins = program.steps[0, Column.OPCODE] == Opcode.PRODUCT
    return bool(begins) and program.products <= MOST_PRODUCTS and program.products * passes >= LEAST_MULTIPLICATIONS


def _stacked(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach()[None] for name, tensor in weights_of(network).items()}


class FusedNetwork(nn.Module):
    """Outputs of a network; where gradients are recorded, they flow to the inputs alone, once differentiable.

    Args:
        network: What is computed.
        program: Of it; must begin with a linear layer or a convolution.
    """

    def __init__(self, network: nn.Module, program: Program) -> None:
        super().__init__()
        self.network, self.program = network, program
        self.spaces: list[np.ndarray] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs `(batch, outputs)` of inputs `(batch, *features)`."""
        recorded = torch.is_grad_enabled() and inputs.requires_grad
        large = recorded and (len(inputs) + MOST_LANES) * self.program.places > MOST_KEPT
        if inputs.dtype != torch.float32 or len(inputs) == 0 or large:
            return self.network(inputs)
        if recorded:
            return _Pass.apply(inputs, self)  # type: ignore[return-value]
        return fused_outputs(self.program, _stacked(self.network), inputs)[0]


class _Pass(torch.autograd.Function):
    """Forward and backward of a batch."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, network: FusedNetwork) -> Tensor:
        ctx.work = _Work(network, inputs)
        return ctx.work.outputs()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.work.slopes(gradients[0]), None


class _Work:
    """A batch between its two passes. A gradient uses up the values of the layers; a second one computes them anew."""

    def __init__(self, network: FusedNetwork, inputs: Tensor) -> None:
        self.network, self.shape = network, inputs.shape
        self.call = PackedCall(network.program, _stacked(network.network), inputs, own=False)
        blocks, places = self.call.blocks, network.program.places + PADDING
        self.size = int(blocks[:, 2].sum()) * places
        self.starts = 4 * places * blocks[:, 3]
        self.space: np.ndarray | None = None

    def outputs(self) -> Tensor:
        from pluriform.fused.slopes import kept_task

        spaces, results = self.network.spaces, np.empty((self.call.samples, self.network.program.outputs), np.float32)
        self.space = spaces.pop() if spaces else np.zeros(self.size, np.float32)
        if self.space.size < self.size:
            self.space = np.zeros(self.size, np.float32)
        self._run(kept_task(), {Call.RESULTS: results}, self.space)
        return torch.from_numpy(results)

    def slopes(self, gradient: Tensor) -> Tensor:
        from pluriform.fused.slopes import slopes_task

        if self.space is None:
            self.outputs()
        given, results = gradient.detach().contiguous().numpy(), np.empty(tuple(self.shape), np.float32)
        space, self.space = cast(np.ndarray, self.space), None
        self._run(slopes_task(), {Call.RESULTS: results, Call.TARGETS: given}, space)
        self.network.spaces.append(space)
        return torch.from_numpy(results)

    def _run(self, task: int, own: dict[Call, np.ndarray | int], space: np.ndarray) -> None:
        starts = space.ctypes.data + self.starts
        self.call.run(task, {Call.SPACES: starts, **own}, len(self.call.blocks))

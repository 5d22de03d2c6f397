"""Losses of drawn networks and their gradients with respect to the drawn weights, few networks in memory at a time."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.ensemble.calling import Calling, call_members, split_members, takes_channels_last
from pluriform.ensemble.statistics import statistics_copies
from pluriform.errors import GraphError, explain
from pluriform.fused.chain import NotFused
from pluriform.fused.program import Program
from pluriform.fused.run import fused_gradients, fused_program
from pluriform.training.feed import Batch
from pluriform.training.loss import Loss

__all__ = ["Gradients", "gradients_of", "measured_calling", "surrogate"]

CHUNK = 4
REPEATS = 3
PREFERRED = 0.97  # Networks are computed together where that takes at most this share of the time of the loop.


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one batch says about drawn networks.

    Attributes:
        losses: Of each network, `(member,)`.
        drawn: Gradient of the loss of each network with respect to its weights, by name, `(member, *shape)`.
        shared: Gradient of the mean loss with respect to the weights that all networks share, by name.
    """

    losses: Tensor
    drawn: dict[str, Tensor]
    shared: dict[str, Tensor]


def gradients_of(
    module: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, calling: Calling, own_batches: bool
) -> Gradients:
    """Forward and backward pass of every network on one batch; the graph of each part is freed before the next.

    Networks run in the mode of `module`; BatchNorm always takes statistics of the batch and keeps none.

    Args:
        module: The network; its parameters that require gradients and are not drawn are the shared ones.
        weights: Drawn weights by name, `(member, *shape)`.
        batch: Inputs `(batch, *features)` that all networks see, or with a leading member axis.
        loss: Gives one number a member.
        calling: How the networks are computed.
        own_batches: Whether the batch has a member axis.
    """
    if calling.way == "fused":
        return _fused(module, weights, batch, loss, own_batches)
    members = len(next(iter(weights.values())))
    shared = {name: p for name, p in module.named_parameters() if p.requires_grad and name not in weights}
    size = {"vmap": members, "chunk": calling.chunk, "loop": 1}[calling.way]
    whole = Calling("vmap", size) if calling.way == "chunk" else calling
    losses: list[Tensor] = []
    found: list[tuple[Tensor, ...]] = []
    for start, part in zip(range(0, members, size), split_members(weights, size), strict=True):
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in part.items()}
        count = len(next(iter(part.values())))
        inputs, targets = batch.inputs, batch.targets.expand(count, *batch.targets.shape)
        if own_batches:
            inputs, targets = batch.inputs[start : start + size], batch.targets[start : start + size]
        outputs = call_members(module, leaves | statistics_copies(module, count), inputs, whole, not own_batches)
        each = loss(outputs, targets)
        found.append(torch.autograd.grad(each.sum(), [*leaves.values(), *shared.values()], materialize_grads=True))
        losses.append(each.detach())
    columns = list(zip(*found, strict=True))
    return Gradients(
        torch.cat(losses),
        {name: torch.cat(column) for name, column in zip(weights, columns[: len(weights)], strict=True)},
        {name: sum(c) / members for name, c in zip(shared, columns[len(weights) :], strict=True)},  # type: ignore[misc]
    )


def _fused(module: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, own_batches: bool) -> Gradients:
    try:
        program = _program(module, weights, batch, loss, own_batches)
    except NotFused as error:
        raise GraphError(
            explain(
                "a training that the fused kernels compute",
                str(error),
                type(module).__name__,
                "take calling='auto' for the fastest of the other ways",
            )
        ) from error
    found = fused_gradients(
        program,
        weights,
        batch.inputs,
        batch.targets,
        classification=loss.task == "classification",
        own_batches=own_batches,
    )
    return Gradients(found.losses, {name: found.weights[name] for name in weights}, {})


def _program(module: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, own_batches: bool) -> Program:
    """Of the fused kernels, or the reason why there is none."""
    if loss.smoothing or loss.weights is not None or loss.task not in ("classification", "regression"):
        raise NotFused("the loss is neither plain cross-entropy nor a mean squared error")
    kind = torch.int64 if loss.task == "classification" else torch.float32
    if batch.targets.dtype != kind:
        raise NotFused(f"the targets are not {kind}")
    trained = [name for name, p in module.named_parameters() if p.requires_grad and name not in weights]
    if trained:
        raise NotFused(f"{trained[0]} is trained and not drawn")
    return fused_program(module, weights, batch.inputs[0] if own_batches else batch.inputs)


def surrogate(module: nn.Module, weights: Mapping[str, Tensor], gradients: Gradients) -> Tensor:
    """A number with the value of the mean loss and its gradient with respect to whatever made the weights."""
    own = dict(module.named_parameters())
    members = len(gradients.losses)
    terms = [(weights[name] * gradient).sum() / members for name, gradient in gradients.drawn.items()]
    terms += [(own[name] * gradient).sum() for name, gradient in gradients.shared.items()]
    linear = torch.stack(terms).sum()
    return linear - linear.detach() + gradients.losses.mean()


def measured_calling(
    module: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, own_batches: bool
) -> Calling:
    """The fastest of all ways on this batch, each timed; ties go to the loop.

    Args:
        module: As in `gradients_of`.
        weights: Drawn weights.
        batch: A training batch.
        loss: Of the training.
        own_batches: Whether the batch has a member axis.
    """
    members = len(next(iter(weights.values())))
    inputs = batch.inputs[0] if own_batches else batch.inputs
    ways = [Calling("loop", 1), Calling("vmap", members)]
    ways += [Calling("loop", 1, True)] if takes_channels_last(module, inputs[:2]) else []
    ways += [Calling("chunk", CHUNK)] if members > CHUNK else []
    seconds: dict[Calling, float] = {}
    devices = [batch.inputs.device] if batch.inputs.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for way in ways:
            try:
                times = [_timed(module, weights, batch, loss, way, own_batches) for _ in range(REPEATS + 1)]
            except (GraphError, RuntimeError):
                continue
            seconds[way] = min(times[1:])
    if not seconds:
        return Calling("loop", 1, False, "the network cannot be computed for several members at once")
    best = min(seconds, key=lambda way: seconds[way] * (PREFERRED if way.way == "loop" else 1))
    try:
        _program(module, weights, batch, loss, own_batches)
        fused = Calling("fused", best.chunk, best.channels_last)  # With what takes its place where outputs are derived.
        times = [_timed(module, weights, batch, loss, fused, own_batches) for _ in range(REPEATS + 1)]
        seconds[fused] = min(times[1:])
        best = min(best, fused, key=lambda way: seconds[way])
    except NotFused:
        pass
    words = ", ".join(f"{_words(way)} {1e3 * took:.1f} ms" for way, took in seconds.items())
    return dataclasses.replace(best, reason=f"measured on one batch: {words}")


def _words(calling: Calling) -> str:
    return calling.way + (" (channels last)" if calling.channels_last else "")


def _timed(
    module: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, way: Calling, own_batches: bool
) -> float:
    start = time.perf_counter()
    gradients_of(module, weights, batch, loss, way, own_batches)
    if batch.inputs.device.type == "cuda":
        torch.cuda.synchronize(batch.inputs.device)
    return time.perf_counter() - start

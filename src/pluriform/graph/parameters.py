"""Calling a module with weights given from outside: one set, or many stacked along a leading `member` axis."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.errors import GraphError, explain

__all__ = [
    "StackedWeights",
    "call",
    "call_stacked",
    "frozen",
    "functional_call",
    "modes_kept",
    "stack",
    "unstack",
    "weights_of",
]


@dataclass(frozen=True, eq=False)
class StackedWeights:
    """Weights of several networks of one architecture.

    Attributes:
        parameters: By name, `(member, *shape)`; leaves that an optimiser may train.
        buffers: By name, `(member, *shape)`.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @property
    def members(self) -> int:
        """Number of networks."""
        return next((len(tensor) for tensor in (*self.parameters.values(), *self.buffers.values())), 0)

    def member(self, position: int) -> dict[str, Tensor]:
        """Parameters and buffers of one network, as views.

        Raises:
            GraphError: There is no such member.
        """
        if not -self.members <= position < self.members:
            raise GraphError(
                explain(
                    f"a member from 0 to {self.members - 1}", str(position), "stacked weights", "count members from 0"
                )
            )
        return {name: tensor[position] for name, tensor in (self.parameters | self.buffers).items()}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, those that are not saved included; tied ones once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Weights without gradients inside, so that only gradients of inputs are computed; every flag comes back."""
    wanted = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """The mode of every submodule comes back afterwards."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def stack(modules: Sequence[nn.Module]) -> StackedWeights:
    """Copy the weights of networks of one architecture into tensors with a leading `member` axis.

    Args:
        modules: At least one; parameters and buffers of equal names and shapes.

    Returns:
        The stacked copies; a parameter requires gradients where it does in the first module.

    Raises:
        GraphError: No modules, or weights that differ in name, shape or type.
    """
    if not modules:
        raise GraphError(explain("at least one module", "none", "stack", "pass the members of the ensemble"))
    for position, module in enumerate(modules):
        _check_alike(weights_of(modules[0]), weights_of(module), f"member {position}")
    parameters = [dict(module.named_parameters()) for module in modules]
    buffers = [dict(module.named_buffers()) for module in modules]
    with torch.no_grad():
        return StackedWeights(
            {
                name: torch.stack([own[name].detach() for own in parameters]).requires_grad_(first.requires_grad)
                for name, first in parameters[0].items()
            },
            {name: torch.stack([own[name].detach() for own in buffers]) for name in buffers[0]},
        )


def unstack(module: nn.Module, stacked: StackedWeights, member: int) -> nn.Module:
    """A copy of `module` that holds the weights of one member.

    Args:
        module: Any network of the architecture; left unchanged.
        stacked: Weights of all members.
        member: Position of the one wanted.

    Raises:
        GraphError: The weights are not those of such a module, or there is no such member.
    """
    weights = stacked.member(member)
    _check_alike(weights_of(module), weights, f"member {member}")
    made = copy.deepcopy(module)
    with torch.no_grad():
        for name, tensor in weights_of(made).items():
            tensor.copy_(weights[name])
    return made


def call(module: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Output of a module with some or all of its weights replaced; the module itself keeps its own.

    Buffers that the module updates in training mode are updated in place, in `weights` where they are given there.

    Args:
        module: Any module.
        weights: Parameters and buffers by name; those not named stay the module's own.
        inputs: What `forward` takes.

    Raises:
        GraphError: A name that the module does not have, or another shape.
    """
    own = weights_of(module)
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            got = f"shape {tuple(tensor.shape)}" if name in own else "a name that it does not have"
            expected = f"a weight of shape {tuple(own[name].shape)}" if name in own else "a weight of the module"
            raise GraphError(explain(expected, got, f"weight {name}", "take the names of weights_of(module)"))
    return functional_call(module, weights, _arguments(inputs))


def functional_call(
    module: nn.Module, weights: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Any:
    """`torch.func.functional_call`, tied weights included, that leaves layers which serve at several places intact.

    PyTorch's own replaces the weights of such a layer once a place, and puts back the replacement in the end.
    """
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    given = {id(own[name]): tensor for name, tensor in weights.items()}
    once = {
        f"{path}.{name}" if path else name: given[id(tensor)]
        for path, part in module.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if id(tensor) in given
    }
    return torch.func.functional_call(module, once, args, kwargs, tie_weights=False)


def call_stacked(
    module: nn.Module,
    stacked: StackedWeights,
    inputs: Tensor | tuple[Tensor, ...],
    chunk: int | None = None,
    shared_inputs: bool = True,
) -> Tensor:
    """Outputs of all members at once.

    What of the network does not depend on stacked weights, such as layers before the only one that differs, is computed
    once. Dropout draws a different mask for each member. Running statistics of normalisation layers in training mode
    are updated in place in `stacked.buffers`, each member's own.

    Args:
        module: A network of the architecture; gives the code, the mode, and the weights that are not stacked.
        stacked: Weights of all members, or those of them that differ.
        inputs: What `forward` takes; with `shared_inputs=False` each with a leading `member` axis.
        chunk: Members computed at a time; `None` for all. Fewer need less memory.
        shared_inputs: Whether all members see the same inputs.

    Returns:
        `(member, batch, outputs)`.

    Raises:
        GraphError: The weights are not those of such a module, or it cannot be computed for several members at once.
    """
    if not stacked.members:
        raise GraphError(explain("at least one member", "none", "call_stacked", "stack at least one module"))
    own, weights, given = weights_of(module), stacked.parameters | stacked.buffers, _arguments(inputs)
    _check_part(own, stacked.member(0), "member 0")
    _check_cumulative_norms(module)
    shared = {name: tensor for name, tensor in own.items() if name not in weights}
    if not shared_inputs:
        _check_member_axis(given, stacked.members)

    def one(different: dict[str, Tensor], args: tuple[Tensor, ...]) -> Tensor:
        return functional_call(module, shared | different, args)

    mapped = torch.func.vmap(one, (0, None if shared_inputs else 0), randomness="different", chunk_size=chunk)
    try:
        with _fused_attention_off():
            return mapped(weights, given)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vmap", "atching rule")):
            raise
        raise GraphError(
            explain(
                "a network that can be computed for several members at once",
                f"one that cannot ({str(error).splitlines()[0][:200]})",
                type(module).__name__,
                "call(module, stacked.member(i), inputs) for each member instead",
            )
        ) from error


@contextmanager
def _fused_attention_off() -> Iterator[None]:
    """The fused transformer layer has neither gradients nor a rule for several members; flash attention has no rule."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _arguments(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _check_part(own: Mapping[str, Tensor], part: Mapping[str, Tensor], where: str) -> None:
    _check_alike({name: tensor for name, tensor in own.items() if name in part}, part, where)


def _check_alike(own: Mapping[str, Tensor], other: Mapping[str, Tensor], where: str) -> None:
    missing, more = sorted(own.keys() - other.keys()), sorted(other.keys() - own.keys())
    differ = [name for name in own if name in other and own[name].shape != other[name].shape]
    if not (missing or more or differ):
        return
    got = [f"{name} missing" for name in missing] + [f"{name} in addition" for name in more]
    got += [f"{name} of shape {tuple(other[name].shape)}, not {tuple(own[name].shape)}" for name in differ]
    raise GraphError(
        explain("weights of one architecture", ", ".join(got[:5]), where, "build all members by the same function")
    )


def _check_cumulative_norms(module: nn.Module) -> None:
    """A cumulative average of running statistics needs the count of batches as a number."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats and layer.momentum is None:
            raise GraphError(
                explain(
                    "running statistics with a momentum",
                    "momentum=None in training mode",
                    f"batch norm {name or 'itself'}",
                    "set its momentum to a number such as 0.1, or call module.eval()",
                )
            )


def _check_member_axis(inputs: tuple[Tensor, ...], members: int) -> None:
    for position, tensor in enumerate(inputs):
        if tensor.dim() == 0 or len(tensor) != members:
            raise GraphError(
                explain(
                    f"inputs with a leading axis of {members} members",
                    f"shape {tuple(tensor.shape)}",
                    f"input {position}",
                    "stack one input a member, or set shared_inputs=True",
                )
            )

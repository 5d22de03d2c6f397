"""`Subject`: a module whose outputs for one input depend on that input alone, with its trainable parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pluriform.axes import Inputs
from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.ops import Op
from pluriform.graph.parameters import functional_call
from pluriform.graph.trace import trace

__all__ = ["ALL", "Subject", "dependence", "subject_of"]

ALL = slice(None)
"""Every output."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network ready for derivatives of single inputs.

    Attributes:
        module: The network.
        graph: Its trace.
        parameters: Trainable parameters by name, detached; tied ones once, frozen ones left out.
        constants: Frozen parameters and buffers by name, detached.
        outputs: Width of the output.
        dtype: Of the outputs.
    """

    module: nn.Module
    graph: Graph
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    outputs: int
    dtype: torch.dtype

    def function(self, x: Tensor, block: slice = ALL) -> Callable[[dict[str, Tensor]], Tensor]:
        """A block of outputs on a batch `x` as a function of some or all of the trainable parameters."""

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            weights = self.constants | self.parameters | parameters
            return functional_call(self.module, weights, (x,))[:, block]

        return outputs

    def at(self, x: Tensor) -> Float[Tensor, "n outputs"]:
        """Outputs on a batch."""
        with torch.no_grad():
            return self.function(x)({})

    def check_inputs(self, *inputs: Tensor | None) -> None:
        """Refuse inputs of another shape than the traced one.

        Raises:
            ShapeError: There are such, or none at all.
        """
        shape = tuple(self.graph.examples[0].shape[1:])
        for x in inputs:
            if x is not None and (tuple(x.shape[1:]) != shape or not len(x)):
                raise ShapeError(
                    explain(
                        f"inputs of shape (n, {', '.join(map(str, shape))}), n at least 1",
                        f"{tuple(x.shape)}",
                        "empirical kernel",
                        "pass both batches with equal shapes of single inputs",
                    )
                )


def subject_of(module: nn.Module, example: Inputs, *, needs_parameters: bool = True) -> Subject:
    """Trace a module and check that derivatives of single inputs are defined.

    Args:
        module: Any network from `(n, *input_shape)` to `(n, outputs)`.
        example: At least one input.
        needs_parameters: Refuse networks without trainable parameters.

    Raises:
        ConfigError: An operation depends on the rest of the batch or on chance; or no parameter is trainable.
        ShapeError: The output is no matrix `(n, outputs)`, or there is no input.
    """
    if not len(example):
        raise ShapeError(explain("at least one input", "none", "empirical kernel", "pass a batch of inputs"))
    graph = trace(module, example[:2].detach())
    _refuse_batch_dependence(graph)
    shape = graph[graph.output.inputs[0]].shape if graph.output.inputs else ()
    if len(shape) != 2 or isinstance(shape[0], tuple):
        raise ShapeError(
            explain(
                "a network with outputs (n, outputs)",
                f"shape {shape}",
                f"empirical kernel of {type(module).__name__}",
                "flatten the output, or return the one tensor whose kernel is wanted",
            )
        )
    trained = {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}
    if needs_parameters and not trained:
        raise ConfigError(
            explain(
                "a network with trainable parameters",
                "none (requires_grad=False everywhere)",
                f"empirical kernel of {type(module).__name__}",
                "let at least one parameter require gradients",
            )
        )
    frozen = {name: weight.detach() for name, weight in module.named_parameters() if not weight.requires_grad}
    dtype = graph[graph.output.inputs[0]].dtype or example.dtype
    return Subject(module, graph, trained, frozen | dict(module.named_buffers()), int(shape[1]), dtype)


def _refuse_batch_dependence(graph: Graph) -> None:
    layers = [(name, reason) for name, layer in graph.root.named_modules() if (reason := dependence(layer))]
    for node in graph.nodes:
        if node.module is None and node.op is Op.DROPOUT and node.attributes.get("active") and node.attributes.get("p"):
            layers.append((str(node), "dropout in training mode"))
        if node.module is None and node.op is Op.BATCH_NORM and node.attributes.get("batch_statistics"):
            layers.append((str(node), "batch statistics"))
    if layers:
        raise ConfigError(
            explain(
                "a network whose output for one input depends on that input alone",
                ", ".join(f"{reason} in {name or 'the network'}" for name, reason in layers[:5]),
                f"empirical kernel of {type(graph.root).__name__}",
                "call module.eval() first; a norm without running statistics has to be replaced",
            )
        )


def dependence(layer: nn.Module) -> str | None:
    """Why the output of a layer is no function of the single input, or None."""
    if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
        return "batch statistics"
    if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
        return "running statistics that change"
    dropped = getattr(layer, "p", 0) if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0)
    if layer.training and isinstance(layer, _DropoutNd | nn.MultiheadAttention | nn.RNNBase) and dropped:
        return "dropout in training mode"
    if layer.training and isinstance(layer, nn.RReLU):
        return "random slopes in training mode"
    return None

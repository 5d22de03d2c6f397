"""`empirical_ntk`: the neural tangent kernel of one network, by the algorithm that counts cheapest."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.infinite.empirical.contraction import Over
from pluriform.infinite.empirical.cost import costs_of, tile_size
from pluriform.infinite.empirical.jacobian import JacobianContraction
from pluriform.infinite.empirical.ntk_vp import NtkVectorProducts
from pluriform.infinite.empirical.structured import StructuredDerivatives
from pluriform.infinite.empirical.subject import subject_of
from pluriform.infinite.empirical.tiles import Method, TileSize, tiled

__all__ = ["Algorithm", "empirical_ntk"]

Algorithm = Literal["auto", "jacobian", "ntk-vp", "structured"]


def empirical_ntk(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    algorithm: Algorithm | str = "auto",
    output: Over | str = "full",
    chunk: int | None = None,
    memory: float | int = 2**32,
) -> Float[Tensor, "n1 n2 *pairs"]:
    """The neural tangent kernel of a network as it is: inner products of gradients of its outputs.

        Theta(x, x') = df(x)/dtheta (df(x')/dtheta)'

    Frozen parameters (`requires_grad=False`) are left out; tied parameters count once, with the sum of their
    gradients. The result is computed at the present weights and carries no gradient itself.

    Args:
        module: Any network from `(n, *input_shape)` to `(n, outputs)`, in evaluation mode.
        x1: First inputs.
        x2: Second inputs; `None` takes the first, and computes each pair once.
        algorithm: `"jacobian"` contracts gradients; `"ntk-vp"` multiplies the kernel with unit vectors; `"structured"`
            contracts inputs and output cotangents layer by layer; `"auto"` takes the cheapest of `count_cost`.
        output: `"full"`, all pairs of outputs, `(n1, n2, outputs, outputs)`; `"trace"`, their mean over equal outputs,
            `(n1, n2)`; `"diagonal"`, equal outputs, `(n1, n2, outputs)`.
        chunk: Inputs computed at a time on either side; by default as many as fit `memory`.
        memory: Bytes that tiles may take.

    Raises:
        ConfigError: An operation depends on the rest of the batch or on chance (training mode), nothing is trainable,
            or an option is unknown.
        ShapeError: Outputs are no matrix, or the batches differ in shape.
        MemoryBudgetError: A single input exceeds `memory`.

    References:
        Jacot, Gabriel, Hongler 2018, Neural Tangent Kernel, arXiv:1806.07572.
        Novak, Sohl-Dickstein, Schoenholz 2022, Fast Finite Width Neural Tangent Kernel, arXiv:2206.08720.

    Example:
        >>> import torch
        >>> net = nn.Linear(3, 2)
        >>> empirical_ntk(net, torch.eye(3), output="trace")
        tensor([[2., 1., 1.],
                [1., 2., 1.],
                [1., 1., 2.]])
    """
    _check_options(str(algorithm), str(output), chunk)
    over: Over = output  # type: ignore[assignment]
    subject = subject_of(module, x1)
    subject.check_inputs(x1, x2)
    structured = StructuredDerivatives(subject, over)
    if algorithm == "auto":
        algorithm = costs_of(structured, len(x1), None if x2 is None else len(x2)).algorithm
    methods: dict[str, Method] = {
        "jacobian": JacobianContraction(subject, over),
        "ntk-vp": NtkVectorProducts(subject, over),
        "structured": structured,
    }
    most = len(x1) if x2 is None else max(len(x1), len(x2))
    size = tile_size(structured, str(algorithm), chunk or most, memory)
    return tiled(methods[algorithm], x1, x2, size if chunk is None else TileSize(chunk, size.outputs))


def _check_options(algorithm: str, output: str, chunk: int | None) -> None:
    for name, value, known in (("algorithm", algorithm, Algorithm), ("output", output, Over)):
        if value not in get_args(known):
            raise ConfigError(
                explain(f"{name} {', '.join(get_args(known))}", repr(value), "empirical_ntk", "choose one of these")
            )
    if chunk is not None and chunk < 1:
        raise ConfigError(explain("a chunk of at least 1", str(chunk), "empirical_ntk", "leave chunk out"))

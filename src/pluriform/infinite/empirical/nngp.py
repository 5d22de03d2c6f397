"""The empirical NNGP: products of the outputs of one network."""

from jaxtyping import Float
from torch import Tensor, nn

from pluriform.infinite.empirical.contraction import Over, contract
from pluriform.infinite.empirical.subject import subject_of

__all__ = ["empirical_nngp"]


def empirical_nngp(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    output: Over = "trace",
) -> Float[Tensor, "n1 n2 *pairs"]:
    """Products of outputs, whose mean over networks is the NNGP kernel.

        K(x, x') = f(x) f(x')'

    Args:
        module: Any network from `(n, *input_shape)` to `(n, outputs)`, in evaluation mode.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        output: `"full"`, all pairs of outputs, `(n1, n2, outputs, outputs)`; `"trace"`, their mean over equal outputs,
            `(n1, n2)`; `"diagonal"`, equal outputs, `(n1, n2, outputs)`.

    Raises:
        ConfigError: An operation depends on the rest of the batch or on chance.
        ShapeError: Outputs are no matrix, or the batches differ in shape.

    Example:
        >>> import torch
        >>> empirical_nngp(nn.Linear(3, 2), torch.eye(3)).shape
        torch.Size([3, 3])
    """
    subject = subject_of(module, x1, needs_parameters=False)
    subject.check_inputs(x1, x2)
    first = subject.at(x1)[..., None]
    second = first if x2 is None else subject.at(x2)[..., None]
    kernel = contract(first, second, output)
    return kernel / subject.outputs if output == "trace" else kernel

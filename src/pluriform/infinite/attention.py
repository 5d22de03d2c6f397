"""The rule of self-attention with infinitely many heads."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pluriform.infinite.kernel import Kernel
from pluriform.infinite.linear import LayerVariances, linear

__all__ = ["attention_weights", "self_attention"]


def attention_weights(logits: Tensor, normalise: str) -> Tensor:
    """Attention weights of every token from logits `(..., token, token)`.

    Args:
        logits: Scaled products of queries and keys.
        normalise: `"softmax"` over the last axis; or `"identity"`, `"abs"` or `"relu"` of every entry.
    """
    functions = {"softmax": lambda x: F.softmax(x, -1), "identity": lambda x: x, "abs": torch.abs, "relu": torch.relu}
    return functions[normalise](logits)


def self_attention(
    kernel: Kernel, query: float, value: LayerVariances, output: LayerVariances, normalise: str, position_var: float
) -> Kernel:
    """Self-attention over all positions, queries tied to keys, logits divided by the width of a head.

    The attention weights of an input settle at `G = zeta(query K^(x, x))`, with `K^ = K + position_var I`:

        K' = output value G1 K^ G2^T + bias
        Theta' = value' K^ + value Theta, mixed by G1 and G2; then the rule of the output layer

    Args:
        kernel: In the full layout.
        query: Variance of a query weight times its fan-in.
        value: Variances of the value layer.
        output: Variances of the output layer.
        normalise: The function `zeta`.
        position_var: Variance of the positional embedding, the same for all inputs, that is added to them.

    References:
        Hron, Bahri, Sohl-Dickstein, Novak 2020, Infinite attention: NNGP and NTK for deep attention networks,
        arXiv:2006.10540.
    """
    spatial, count = kernel.spatial, torch.Size(kernel.spatial).numel()

    def square(part: Tensor) -> Tensor:
        return part.reshape(*part.shape[: part.ndim - 2 * len(spatial)], count, count)

    embedded = position_var * torch.eye(count, dtype=kernel.nngp.dtype, device=kernel.nngp.device)
    own = [square(part) + embedded for part in (kernel.variance1, kernel.variance2)]
    first, second = (attention_weights(query * part, normalise) for part in own)

    def pairs(part: Tensor) -> Tensor:
        return (first[:, None] @ part @ second[None].mT).reshape(*part.shape[:2], *spatial, *spatial)

    def alone(weights: Tensor, part: Tensor) -> Tensor:
        return (weights @ part @ weights.mT).reshape(len(part), *spatial, *spatial)

    valued = linear(
        kernel.replace(
            nngp=square(kernel.nngp) + embedded,
            ntk=None if kernel.ntk is None else square(kernel.ntk),
            variance1=own[0],
            variance2=own[1],
        ),
        value,
    )
    variance1 = alone(first, valued.variance1)
    mixed = kernel.replace(
        nngp=pairs(valued.nngp),
        ntk=None if valued.ntk is None else pairs(valued.ntk),
        variance1=variance1,
        variance2=variance1 if kernel.same else alone(second, valued.variance2),
    )
    return linear(mixed, output)

"""Multiply-accumulates of a call, counted as it runs."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["multiplications"]


def multiplications(call: Callable[[], object]) -> int:
    """Multiply-accumulates of matrix products and convolutions in one call.

    Attention is written out while they are counted: its fused kernels are not seen by the counter, neither those of
    `scaled_dot_product_attention` nor the fast paths of `nn.MultiheadAttention` and `nn.TransformerEncoder`. Not seen
    are fused LSTM cells.

    Args:
        call: Is called once.

    Example:
        >>> layer = torch.nn.Linear(3, 4)
        >>> multiplications(lambda: layer(torch.zeros(5, 3)))
        60
    """
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2

"""Multiply-accumulates against counts by hand."""

import torch
from torch import nn
from torch.nn import functional as F

from pluriform.metrics.multiplications import multiplications

TOKENS, WIDTH = 8, 12
ATTENTION = 4 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH
"""Of queries, keys, values and outputs; of scores and sums."""


def test_attention_is_counted_in_evaluation_mode():
    layer, x = nn.MultiheadAttention(WIDTH, 2, batch_first=True).eval(), torch.randn(1, TOKENS, WIDTH)
    with torch.no_grad():
        assert multiplications(lambda: layer(x, x, x, need_weights=False)) == ATTENTION
        assert multiplications(lambda: F.scaled_dot_product_attention(x, x, x)) == 2 * TOKENS**2 * WIDTH


def test_an_encoder_is_counted_in_evaluation_mode():
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 20, batch_first=True).eval()
    with torch.no_grad():
        assert multiplications(lambda: layer(torch.randn(3, TOKENS, WIDTH))) == 3 * (
            ATTENTION + 2 * TOKENS * WIDTH * 20
        )


def test_settings_of_torch_come_back():
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    conv = nn.Conv2d(2, 3, 3)
    assert multiplications(lambda: conv(torch.zeros(1, 2, 6, 6))) == 3 * 2 * 9 * 16
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == before

"""`GlobalSelfAttention`: the attention layer that has a limit of infinite width."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.infinite.attention import attention_weights

__all__ = ["GlobalSelfAttention"]


class GlobalSelfAttention(nn.Module):
    """Self-attention whose queries are its keys, with logits divided by the width of a head.

        out = sum over heads of zeta(Q_h(x) Q_h(x)^T / d) V_h(x) O_h + bias

    where `d` is the width of the queries of a head. Weights that are tied and divided by `d`, and not by its root,
    settle as `d` grows: this network has closed-form kernels, and `nn.MultiheadAttention` has none. One block of
    queries serves all heads in the limit, and here too.

    Args:
        in_features: Width of a token.
        out_features: Width of a token of the output.
        width: Width `d` of queries, and of the values of all heads together.
        normalise: Attention weights from logits: `"softmax"`, or `"identity"`, `"abs"` or `"relu"` of every logit.
        position_var: Variance of a fixed random positional embedding that is added to every token, alike for all
            inputs; 0 leaves it out.
        tokens: Number of tokens, needed for the embedding.
        bias: Whether the output has a bias.

    Raises:
        ConfigError: `normalise` is unknown, or the embedding has no number of tokens.

    References:
        Hron, Bahri, Sohl-Dickstein, Novak 2020, Infinite attention, arXiv:2006.10540.

    Example:
        >>> attention = GlobalSelfAttention(8, 4, width=16)
        >>> attention(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 4])
    """

    one_node = True
    embedding: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        normalise: str = "softmax",
        position_var: float | int = 0.0,
        tokens: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if normalise not in ("softmax", "identity", "abs", "relu"):
            raise ConfigError(
                explain("softmax, identity, abs or relu", repr(normalise), "GlobalSelfAttention", "choose one of these")
            )
        if position_var and tokens is None:
            raise ConfigError(
                explain("tokens with position_var", "none", "GlobalSelfAttention", "give the number of tokens")
            )
        self.normalise, self.position_var = normalise, float(position_var)
        self.query = nn.Linear(in_features, width, bias=False)
        self.value = nn.Linear(in_features, width, bias=False)
        self.output = nn.Linear(width, out_features, bias=bias)
        noise = torch.randn(tokens, in_features) * self.position_var**0.5 if tokens and position_var else None
        self.register_buffer("embedding", noise)

    def forward(self, x: Float[Tensor, "batch *tokens"]) -> Float[Tensor, "batch tokens out"]:
        """Attend from every token to every token."""
        if x.ndim != 3:
            raise ShapeError(
                explain(
                    "tokens (batch, tokens, features)",
                    str(tuple(x.shape)),
                    "GlobalSelfAttention",
                    "flatten positions and move channels last",
                )
            )
        if self.embedding is not None:
            x = x + self.embedding
        queries = self.query(x)
        weights = attention_weights(queries @ queries.mT / self.query.out_features, self.normalise)
        return self.output(weights @ self.value(x))

"""The rule of a layer with weights: linear layers, and the last step of convolutions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pluriform.infinite.kernel import Kernel

__all__ = ["Amount", "LayerVariances", "linear"]

Amount = float | Tensor


@dataclass(frozen=True)
class LayerVariances:
    """What a layer with weights contributes.

    Numbers, or tensors of no axes through which gradients flow to the variances.

    Attributes:
        weight: Variance of a weight times the fan-in.
        bias: Variance of the bias; 0 for a layer without one.
        weight_rate: Factor of the incoming second moment in the NTK (`g_w`); 0 for frozen weights.
        bias_rate: What the bias adds to the NTK (`g_b`); 0 for frozen or absent biases.
    """

    weight: Amount
    bias: Amount
    weight_rate: Amount
    bias_rate: Amount

    @staticmethod
    def of(
        weight_var: float | int | Tensor,
        bias_var: float | int | Tensor,
        *,
        fan_in: int,
        has_bias: bool,
        parameterization: str,
        train_weight: bool = True,
        train_bias: bool = True,
    ) -> "LayerVariances":
        """Rates of one layer in the `"ntk"` or the `"standard"` parameterisation.

        | | weights | `g_w` | `g_b` |
        |---|---|---|---|
        | ntk | `sigma_w / sqrt(n) * w`, `w ~ N(0, 1)` | `weight_var` | `bias_var` |
        | standard | `w ~ N(0, weight_var / n)` | `n` | 1 |
        """
        bias = bias_var if has_bias else 0.0
        ntk = parameterization == "ntk"
        weight_rate = (weight_var if ntk else float(fan_in)) if train_weight else 0.0
        bias_rate = (bias if ntk else 1.0) if has_bias and train_bias else 0.0
        return LayerVariances(_amount(weight_var), _amount(bias), _amount(weight_rate), _amount(bias_rate))


def _amount(value: float | int | Tensor) -> Amount:
    return value if isinstance(value, Tensor) else float(value)


def _present(value: Amount) -> bool:
    """Whether it adds anything; a tensor may, and carries a gradient even at 0."""
    return isinstance(value, Tensor) or value != 0


def linear(kernel: Kernel, layer: LayerVariances) -> Kernel:
    """A linear layer of infinite width.

        K' = weight K + bias        Theta' = g_w K + g_b + weight Theta

    References:
        Jacot, Gabriel, Hongler 2018, Neural Tangent Kernel, arXiv:1806.07572.
        Sohl-Dickstein, Novak, Schoenholz, Lee 2020, On the infinite width limit with a standard parameterization,
        arXiv:2001.07301.
    """

    def moment(part: Tensor) -> Tensor:
        return layer.weight * part + layer.bias if _present(layer.bias) else layer.weight * part

    ntk = None
    if kernel.ntk is not None:
        if isinstance(layer.weight_rate, Tensor):
            ntk = layer.weight * kernel.ntk + layer.weight_rate * kernel.nngp
        else:
            ntk = torch.add(layer.weight * kernel.ntk, kernel.nngp, alpha=layer.weight_rate)
        ntk = ntk + layer.bias_rate if _present(layer.bias_rate) else ntk
    return kernel.replace(
        nngp=moment(kernel.nngp),
        ntk=ntk,
        variance1=moment(kernel.variance1),
        variance2=moment(kernel.variance2),
        gaussian=True,
        zero_mean=True,
    )

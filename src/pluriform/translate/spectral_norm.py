"""Spectral norm: convolutions divided by the largest singular value of their weights."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["SpectralConv2d", "fold_spectral_norm", "settle"]

WARM_UP = 15
SETTLED = 50  # From averages, whose sigma is read and never trained against: singular values may lie close together.
TINY = 1e-12


class SpectralConv2d(nn.Conv2d):
    """Convolution with `weight / sigma`: `sigma = u' W v`, where W is the weight as a matrix `(out, in * k * k)`.

    One power iteration a forward pass that trains the weight (training mode, gradients on, weight not frozen), so that
    fakes drawn again without gradients, a frozen discriminator and evaluation leave `u` and `v` as they are. The two
    products of the iteration also give sigma. Where the weight is larger than the output, sigma divides the output, and
    the backward pass adds its rank-one term to the gradient in place: no copy of a large weight is made.

    Args:
        before: Input channels.
        after: Output channels.
        kernel: Side of the kernel.
        stride: Step in pixels.
        padding: Zeros around the input.
        bias: Whether there is a bias.
        fused: Spare the copy of large weights; without it the layer can be differentiated twice, as R1 does.

    References:
        Miyato, Kataoka, Koyama, Yoshida 2018, Spectral Normalization for Generative Adversarial Networks,
        arXiv:1802.05957.

    Example:
        >>> layer = SpectralConv2d(3, 8, 3, padding=1).eval()
        >>> layer(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    one_node = True
    u: Tensor
    v: Tensor

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        *,
        fused: bool = True,
    ) -> None:
        super().__init__(before, after, kernel, stride, padding, bias=bias)
        self.fused = fused
        self.register_buffer("u", torch.empty(after))
        self.register_buffer("v", torch.empty(before * kernel * kernel))
        self.draw_directions()

    def draw_directions(self) -> None:
        """Draw `u` anew and iterate until both directions are close to the leading singular vectors."""
        if self.weight.is_meta:
            return
        with torch.no_grad():
            self.u.copy_(F.normalize(torch.randn_like(self.u), dim=0, eps=TINY))
        for _ in range(WARM_UP):
            self.iterate()

    def reset_parameters(self) -> None:
        """Draw weight, bias and directions anew."""
        super().reset_parameters()
        if hasattr(self, "u"):
            self.draw_directions()

    @torch.no_grad()
    def iterate(self) -> Tensor:
        """One power iteration, `v = W'u / |W'u|` and `u = Wv / |Wv|`.

        Returns:
            sigma, the length of Wv.
        """
        matrix = self.weight.flatten(1)
        torch.mv(matrix.t(), self.u, out=self.v)
        self.v.div_(self.v.norm().clamp_min(TINY))
        torch.mv(matrix, self.v, out=self.u)
        sigma = self.u.norm().clamp_min(TINY)
        self.u.div_(sigma)
        return sigma

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map `(batch, before, height, width)` to `(batch, after, height', width')`."""
        sigma = None
        if self.training and self.weight.requires_grad and torch.is_grad_enabled():
            sigma = self.iterate()
        u, v = self.u.clone(), self.v.clone()  # Further passes before the backward pass overwrite the buffers.
        if self.fused and self._heavy(x) and not (x.is_meta or torch.is_autocast_enabled(x.device.type)):
            return _HeavyConvolution.apply(x, self.weight, self.bias, sigma, u, v, self.stride, self.padding)
        weight = self.weight / torch.dot(u, torch.mv(self.weight.flatten(1), v))
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    def _heavy(self, x: Tensor) -> bool:
        """Whether the weight has more numbers than the output."""
        pixels = x.shape[0] * x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        return self.weight.numel() > pixels * self.out_channels


class _HeavyConvolution(torch.autograd.Function):
    """`conv(x, W) / sigma + bias` with `d sigma = u dW v`; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sigma: Tensor | None,
        u: Tensor,
        v: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        if sigma is None:
            sigma = torch.dot(u, torch.mv(weight.flatten(1), v))
        y = F.conv2d(x, weight, None if bias is None else bias * sigma, stride, padding).div_(sigma)
        ctx.save_for_backward(x, weight, bias, sigma, u, v, y)
        ctx.stride, ctx.padding = stride, padding
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (grad,) = grads
        x, weight, bias, sigma, u, v, y = ctx.saved_tensors
        scaled = grad / sigma
        geometry = (ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1)
        wanted = [*ctx.needs_input_grad[:2], False]
        dx, dw, _ = torch.ops.aten.convolution_backward(scaled, x, weight, None, *geometry, wanted)
        along, db = torch.dot(grad.flatten(), y.flatten()), None
        if bias is not None:
            db = grad.sum((0, 2, 3))
            along = along - torch.dot(db, bias)
        if dw is not None:
            dw.view(len(u), -1).addr_(u * (-along / sigma), v)
        return dx, dw, db, None, None, None, None, None


def settle(network: nn.Module) -> None:
    """Iterate until the directions of every spectral norm in the network are those of its weight; nothing is drawn.

    Averages of weights need it: the average of directions that turned is shorter than 1, and its sigma too small.

    Args:
        network: Any module; directions change in place.

    Example:
        >>> layer = SpectralConv2d(3, 8, 3)
        >>> _ = layer.u.mul_(0.5)
        >>> settle(layer)
        >>> round(float(layer.u.norm()), 4)
        1.0
    """
    for part in network.modules():
        if isinstance(part, SpectralConv2d):
            for _ in range(SETTLED):
                part.iterate()


def fold_spectral_norm(network: nn.Module) -> nn.Module:
    """A copy with plain convolutions of the divided weights, for use: the same outputs as in evaluation mode, faster.

    Args:
        network: Any module; left unchanged.

    Example:
        >>> type(fold_spectral_norm(nn.Sequential(SpectralConv2d(3, 8, 3)))[0]).__name__
        'Conv2d'
    """
    folded = copy.deepcopy(network)
    for name, part in list(folded.named_modules()):
        if isinstance(part, SpectralConv2d):
            plain = _plain(part)
            if not name:
                return plain
            folded.set_submodule(name, plain)
    return folded


@torch.no_grad()
def _plain(layer: SpectralConv2d) -> nn.Conv2d:
    """Drawing nothing: a weight that is about to be overwritten needs no draws."""
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
    with torch.device("meta"):
        plain = nn.Conv2d(*sizes, bias=layer.bias is not None)  # type: ignore[arg-type]
    sigma = torch.dot(layer.u, torch.mv(layer.weight.flatten(1), layer.v))
    plain.weight = nn.Parameter(layer.weight / sigma, layer.weight.requires_grad)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.clone(), layer.bias.requires_grad)
    plain.training = layer.training
    return plain

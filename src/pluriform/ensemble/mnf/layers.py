"""Linear and convolutional layers whose weights have a multiplicative-normalizing-flow posterior."""

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pluriform.ensemble.mnf.flow import Flow, Flowed

__all__ = ["Auxiliary", "MNFLayer", "supported"]

LOG_SIGMA = -9.0
SIGMA_CAP = 0.5
Z_VARIANCE = 0.1
HIDDEN, AUXILIARY_HIDDEN = 50, 100
TINY = 1e-12  # Under the root of a variance that may be 0.
LINEAR = nn.Linear.forward
CONVOLUTIONS = tuple(kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def supported(layer: nn.Module) -> bool:
    """Whether the layer is linear or a convolution, with a trainable weight of its own and the `forward` of torch."""
    weight = layer._parameters.get("weight")
    return type(layer).forward in (LINEAR, *CONVOLUTIONS) and weight is not None and weight.requires_grad


class Auxiliary(nn.Module):
    """The reverse distribution r(z | W), which tightens the bound.

    With the weights as a matrix W of the entries of z by the rest, a = tanh(c^T W) (without tanh for convolutions):
    log r(z | W) = log N(f(z); b1 mean(a), exp(-b2 mean(a))) + log |det df/dz|, f another flow.

    Args:
        size: Entries of z.
        flows: Steps of f.
        squash: Whether a goes through tanh.
    """

    def __init__(self, size: int, flows: int, squash: bool) -> None:
        super().__init__()
        self.squash = squash
        self.direction = nn.Parameter(torch.randn(size) / math.sqrt(size))
        self.mean, self.log_precision = (nn.Parameter(0.1 * torch.randn(size)) for _ in range(2))
        self.flow = Flow(size, flows, AUXILIARY_HIDDEN)

    def features(self, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        """A draw of mean(a): c^T W is Gaussian where the entries of W are, so W itself need not be drawn.

        Args:
            mean: Of W, `(size, rest)`.
            variance: Of W, `(size, rest)`.
            noise: Standard normal, `(rest,)`.
        """
        projected = self.direction @ mean + (self.direction.square() @ variance + TINY).sqrt() * noise
        return (projected.tanh() if self.squash else projected).mean()

    def log_density(self, z: Tensor, feature: Tensor) -> Tensor:
        """Log r(z | W) in nats for z `(size,)` and the feature mean(a) of W."""
        flowed = self.flow(z)
        log_precision = self.log_precision * feature
        squared = log_precision.exp() * (flowed.z - self.mean * feature).square()
        return (log_precision - squared - math.log(2 * math.pi)).sum() / 2 + flowed.log_det


class MNFLayer(nn.Module):
    """A layer with random weights: q(W) = int N(W; z mu, sigma^2) q(z) dz, z = flow(z0), z0 ~ N(m, v).

    z multiplies the inputs of a linear layer and the output filters of a convolution. The bias has a Gaussian of its
    own. In training mode each call samples outputs by local reparametrisation, with one z for each entry of the first
    axis; in evaluation mode it computes with z = flow(m) and W = z mu. Code that reads `weight` or `bias` instead of
    calling the layer gets a draw of them.

    Args:
        layer: Linear, or convolution; its weight and bias are taken over as mu.
        flows: Steps of the flow of z and of the auxiliary one.
    """

    def __init__(self, layer: nn.Module, flows: int = 2) -> None:
        super().__init__()
        self.layer = layer
        self.dense = type(layer).forward is LINEAR
        mu, bias = self.mu, self.mu_bias
        size = mu.shape[1] if self.dense else mu.shape[0]
        self.log_sigma = nn.Parameter(torch.full_like(mu, LOG_SIGMA))
        self.log_sigma_bias = None if bias is None else nn.Parameter(torch.full_like(bias, LOG_SIGMA))
        self.z_mean = nn.Parameter(torch.ones(size))
        self.z_log_variance = nn.Parameter(torch.full((size,), math.log(Z_VARIANCE)))
        self.flow = Flow(size, flows, HIDDEN, start=1.0)
        self.auxiliary = Auxiliary(size, flows, squash=self.dense)

    @property
    def mu(self) -> Tensor:
        """Means of the weights given z = 1."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def mu_bias(self) -> Tensor | None:
        """Mean of the bias."""
        return self.layer.bias  # type: ignore[return-value]

    @property
    def sigma(self) -> Tensor:
        """Standard deviations of the weights given z, at most 0.5."""
        return self.log_sigma.exp().clamp(max=SIGMA_CAP)

    @property
    def sigma_bias(self) -> Tensor | None:
        """Standard deviation of the bias, at most 0.5."""
        return None if self.log_sigma_bias is None else self.log_sigma_bias.exp().clamp(max=SIGMA_CAP)

    @property
    def weight(self) -> Tensor:
        """A draw of the weights in training mode, their mean for z = flow(m) in evaluation mode."""
        if not self.training:
            return self._scale(self.flow(self.z_mean).z) * self.mu
        return self.weights(torch.randn_like(self.z_mean), torch.randn_like(self.mu))

    @property
    def bias(self) -> Tensor | None:
        """A draw of the bias in training mode, its mean in evaluation mode."""
        if self.mu_bias is None or not self.training:
            return self.mu_bias
        return self.biases(torch.randn_like(self.mu_bias))

    def latent(self, noise: Tensor) -> Flowed:
        """Z and its log-determinant from standard normal noise `(..., size)`."""
        return self.flow(self.z_mean + (self.z_log_variance / 2).exp() * noise)

    def weights(self, latent_noise: Tensor, noise: Tensor) -> Tensor:
        """W = z mu + sigma noise, from standard normal noise of the shapes `(size,)` and of the weight."""
        return self._scale(self.latent(latent_noise).z) * self.mu + self.sigma * noise

    def biases(self, noise: Tensor) -> Tensor | None:
        """The bias from standard normal noise of its shape."""
        mean, sigma = self.mu_bias, self.sigma_bias
        return None if mean is None or sigma is None else mean + sigma * noise

    def _scale(self, z: Tensor) -> Tensor:
        """Z shaped so that it multiplies the weight."""
        return z if self.dense else z.view(-1, *[1] * (self.mu.dim() - 1))

    def _call(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional_call(self.layer, {"weight": weight} | ({} if bias is None else {"bias": bias}), (inputs,))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the layer, `(batch, ...)`; sampled in training mode."""
        if not self.training:
            return self._call(inputs, self.weight, self.mu_bias)
        rows = inputs.shape[: int(inputs.dim() > 1)]
        z = self.latent(torch.randn(*rows, len(self.z_mean), device=inputs.device, dtype=self.mu.dtype)).z
        variance = self._call(
            inputs.square(), self.sigma.square(), None if self.sigma_bias is None else self.sigma_bias.square()
        )
        mean = self._dense_mean(inputs, z) if self.dense else self._filter_mean(inputs, z)
        return mean + (variance + TINY).sqrt() * _noise_like(mean)

    def _dense_mean(self, inputs: Tensor, z: Tensor) -> Tensor:
        if inputs.dim() > 1:
            z = z.view(len(inputs), *[1] * (inputs.dim() - 2), -1)
        return self.layer(inputs * z)

    def _filter_mean(self, inputs: Tensor, z: Tensor) -> Tensor:
        z = z.view(*z.shape, *[1] * (self.mu.dim() - 2))
        outputs = self.layer(inputs) * z
        return outputs if self.mu_bias is None else outputs + (1 - z) * self.mu_bias.view(-1, *[1] * (z.dim() - 2))

    def divergence(self) -> Tensor:
        """An unbiased one-sample estimate, in nats, of the bound on the KL divergence to the prior N(0, 1).

        E_q(z) [ KL(q(W | z) || N(0, 1)) + log q(z) - log r(z | W) ], plus the divergence of the bias. In closed form
        are KL(q(W | z) || N(0, 1)) = sum (sigma^2 + z^2 mu^2 - 1) / 2 - log sigma, and the entropy of z0.
        """
        flowed = self.latent(torch.randn_like(self.z_mean))
        mean, variance = self._matrix(self._scale(flowed.z) * self.mu), self._matrix(self.sigma.square())
        entropy = ((self.z_log_variance + math.log(2 * math.pi) + 1).sum()) / 2 + flowed.log_det
        noise = torch.randn_like(mean[0])
        log_reverse = self.auxiliary.log_density(flowed.z, self.auxiliary.features(mean, variance, noise))
        total = _gaussian_divergence(mean, variance) - entropy - log_reverse
        if self.mu_bias is not None and self.sigma_bias is not None:
            total = total + _gaussian_divergence(self.mu_bias, self.sigma_bias.square())
        return total

    def _matrix(self, weight: Tensor) -> Tensor:
        """A weight as entries of z by the rest."""
        return weight.T if self.dense else weight.flatten(1)


def _noise_like(outputs: Tensor) -> Tensor:
    """Standard normal values in the layout of the outputs, drawn in one block: strided draws take ten times as long."""
    if outputs.dim() != 4 or not outputs.is_contiguous(memory_format=torch.channels_last):
        return torch.randn_like(outputs)
    return torch.randn_like(outputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _gaussian_divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed, in nats."""
    return (mean.square() + variance - 1 - variance.log()).sum() / 2

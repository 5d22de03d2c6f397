"""The mixer: one noise vector to one code a layer, and the pre-training that makes each code look like the prior."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Mixer", "MomentMatch", "cross_covariance", "gaussian_divergence", "moment_error", "pretrain"]

LEARNING_RATE = 1e-3
MOST_STEPS = 500
SAMPLES_A_DIMENSION = 16
RIDGE = 1e-4
STOP = 2.0  # Times the error that exact samples of the prior would have.

Noise = Float[Tensor, "member noise"]
Codes = Float[Tensor, "member layer code"]


class Mixer(nn.Module):
    """Q: noise s ~ N(0, I) to codes z_1 .. z_N, which are therefore dependent.

    LayerNorm, not BatchNorm: a draw may not depend on the draws made beside it.

    Args:
        noise_size: Length of s.
        layers: Number of codes N.
        code_size: Length of each code.
        hidden: Width of the two hidden layers.

    References:
        Ratzlaff, Li 2019, HyperGAN: A Generative Model for Diverse, Performant Neural Networks, arXiv:1901.11058.
    """

    def __init__(self, noise_size: int, layers: int, code_size: int, hidden: int) -> None:
        super().__init__()
        self.layers, self.code_size, self.noise_size = layers, code_size, noise_size
        self.body = nn.Sequential(
            nn.Linear(noise_size, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, layers * code_size),
        )

    def forward(self, noise: Noise) -> Codes:
        """Codes of every layer."""
        return self.body(noise).view(len(noise), self.layers, self.code_size)


class Independent(nn.Module):
    """No mixer: every layer gets noise of its own as its code, so that codes are independent (the paper's ablation).

    Args:
        layers: Number of codes.
        code_size: Length of each code.
    """

    def __init__(self, layers: int, code_size: int) -> None:
        super().__init__()
        self.layers, self.code_size, self.noise_size = layers, code_size, layers * code_size

    def forward(self, noise: Noise) -> Codes:
        """The noise itself."""
        return noise.view(len(noise), self.layers, self.code_size)


@dataclass(frozen=True)
class MomentMatch:
    """How close the codes of each layer are to the prior after pre-training.

    Attributes:
        error: Mean over layers of ||C - I||_F^2 / d + ||m||^2 / d.
        floor: What samples of the prior itself would have, (d + 1) / (n - 1).
        cross_covariance: Mean over pairs of layers of ||C_ij||_F^2 / d; 0 would mean that layers are independent.
        steps: Steps taken.
    """

    error: float
    floor: float
    cross_covariance: float
    steps: int


def moment_error(codes: Codes) -> Tensor:
    """Mean over layers of ||C_i - I||_F^2 / d + ||m_i||^2 / d, for the moments of the codes of each layer by itself.

    The joint covariance of all layers is left free: matching it to I would decorrelate the layers.
    """
    size = codes.shape[-1]
    mean = codes.mean(0)
    centred = (codes - mean).transpose(0, 1)
    covariance = centred.mT @ centred / (len(codes) - 1)
    eye = torch.eye(size, dtype=codes.dtype, device=codes.device)
    return ((covariance - eye).square().sum((-2, -1)) / size + mean.square().sum(-1) / size).mean()


def gaussian_divergence(codes: Codes) -> Tensor:
    """Mean over layers of KL(N(m_i, C_i) || N(0, I)) / d, for the moments of the codes of each layer by itself.

    Unlike the squared error of the moments, it grows without bound as codes gather in a point or a plane, so that
    nothing else can hold them there. More codes than dimensions are needed; with fewer, C_i is singular and only the
    ridge keeps it finite.
    """
    size = codes.shape[-1]
    mean = codes.mean(0)
    centred = (codes - mean).transpose(0, 1)
    covariance = centred.mT @ centred / len(codes) + RIDGE * torch.eye(size, dtype=codes.dtype, device=codes.device)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_determinant = log_determinant.where(failed == 0, math.nan)  # The loop says that training diverged.
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((trace + mean.square().sum(-1) - size - log_determinant) / (2 * size)).mean()


def cross_covariance(codes: Codes) -> float:
    """Mean over pairs of different layers of ||C_ij||_F^2 / d; 0 for a single layer."""
    layers, size = codes.shape[1:]
    if layers < 2:
        return 0.0
    flat = (codes - codes.mean(0)).flatten(1)
    squared = (flat.T @ flat / (len(codes) - 1)).square().view(layers, size, layers, size).sum((1, 3)) / size
    return float((squared.sum() - squared.diagonal().sum()) / (layers * (layers - 1)))


def pretrain(mixer: Mixer, generator: torch.Generator) -> MomentMatch:
    """Train the mixer until the mean and covariance of each layer's codes are those of N(0, I).

    So the discriminator is not handed an easy win. Enough noise vectors are drawn for the moments to mean something, 16
    a code dimension, and the stop is relative to the error that exact samples would have.

    Args:
        mixer: Trained in place.
        generator: Source of the noise, on the CPU.
    """
    size, device = mixer.code_size, next(mixer.parameters()).device
    count = SAMPLES_A_DIMENSION * size
    floor = (size + 1) / (count - 1)
    optimizer = torch.optim.Adam(mixer.parameters(), lr=LEARNING_RATE)

    def sample() -> Tensor:
        return mixer(torch.randn(count, mixer.noise_size, generator=generator).to(device))

    steps, codes = 0, sample()
    error = moment_error(codes)
    while float(error.detach()) > STOP * floor and steps < MOST_STEPS:
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        steps, codes = steps + 1, sample()
        error = moment_error(codes)
    optimizer.zero_grad()
    return MomentMatch(float(error.detach()), floor, cross_covariance(codes.detach()), steps)

"""Targets of the HyperGAN reproductions: networks of the paper, and a small vision transformer.

References:
    Ratzlaff, Li 2019. HyperGAN: A Generative Model for Diverse, Performant Neural Networks. arXiv:1901.11058.
    Dosovitskiy et al. 2021. An Image is Worth 16x16 Words. arXiv:2010.11929.
"""

import torch
from torch import Tensor, nn

MNIST_PARAMETERS = 31_594
MEDNET_PARAMETERS = 90_506


def mnist_network(seed: int) -> nn.Sequential:
    """Two convolutions of 32 filters of 5 x 5, each with leaky ReLU and pooling by 2, and a linear layer: 31,594."""
    network = _seeded(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5), nn.LeakyReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 10),
        ),
    )  # fmt: skip
    return _counted(network, MNIST_PARAMETERS)


def mednet(seed: int) -> nn.Sequential:
    """The CIFAR-10 network of the code of 2019: convolutions of 32, 64, 64 filters of 3 x 3 and two linear layers."""
    network = _seeded(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
        ),
    )  # fmt: skip
    return _counted(network, MEDNET_PARAMETERS)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a perceptron, each with a skip connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, token, width)` to the same shape."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patch embedding, a class token, learned positions, transformer blocks, and a linear layer on the class token."""

    def __init__(
        self, input_shape: tuple[int, ...], outputs: int, *, patch: int, width: int = 32, depth: int = 3, heads: int = 4
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + (height // patch) * (side // patch), width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, outputs)`."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.position
        return self.classifier(self.norm(self.blocks(x))[:, 0])


def vision_transformer(input_shape: tuple[int, ...], outputs: int, patch: int, seed: int) -> VisionTransformer:
    """The transformer with initial weights of this seed."""
    return _seeded(seed, lambda: VisionTransformer(input_shape, outputs, patch=patch))


def parameters_of(network: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in network.parameters())


def _seeded(seed: int, make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _counted(network: nn.Sequential, expected: int) -> nn.Sequential:
    if parameters_of(network) != expected:
        raise SystemExit(f"the target has {parameters_of(network)} parameters instead of {expected}")
    return network

"""A network with random weights, whose features tell images apart where nobody has another."""

import torch
from torch import nn

__all__ = ["random_judge"]

WIDTHS = (32, 64, 128, 128)


def random_judge(channels: int, seed: int = 0) -> nn.Sequential:
    """Four convolutions with He-normal weights drawn from `seed`, each from the second on after averaging 2x2 pixels.

    Its features know colours, edges and textures, and nothing of what things are: a second opinion beside a classifier,
    and enough to see whether images are alike at all. Means of the last features are what its distances compare.

    Args:
        channels: Of the images.
        seed: Of the weights.

    References:
        He, Wang, Hopcroft 2016, A Powerful Generative Model Using Random Weights for the Deep Image Representation,
        arXiv:1606.04801.

    Example:
        >>> random_judge(3)(torch.zeros(2, 3, 20, 16)).shape
        torch.Size([2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for place, (before, after) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False)):
        with torch.device("meta"):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        conv.weight = nn.Parameter(
            torch.randn(conv.weight.shape, generator=generator) * (2 / (1.04 * 9 * before)) ** 0.5
        )
        parts += [*([nn.AvgPool2d(2, ceil_mode=True)] if place else []), conv, nn.LeakyReLU(0.2)]
    with torch.device("meta"):
        head = nn.Linear(WIDTHS[-1], 2, bias=False)
    head.weight = nn.Parameter(torch.zeros(2, WIDTHS[-1]))
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).requires_grad_(False)
    network.origin = {"label": f"random network (seed {seed})"}  # type: ignore[assignment]
    return network

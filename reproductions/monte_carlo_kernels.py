"""Monte-Carlo kernels of widened copies of ten networks beside their closed forms; one thread.

    OMP_NUM_THREADS=1 python reproductions/monte_carlo_kernels.py

Each network is widened by a factor, drawn anew a number of times, and the mean of its NNGP and NTK is compared with the
closed form on digits of scikit-learn: relative error in the Frobenius norm, root mean square over independent repeats.
The error of a mean over S networks of width w is to fall as (w S)^(-1/2), and to end at 2 % or less. Writes
reproductions/monte_carlo_kernels.json.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pluriform as pf
from pluriform.infinite import kernel_of
from pluriform.infinite.empirical import monte_carlo_kernel
from pluriform.nets.convnet import ConvNet
from pluriform.nets.lenet import LeNet
from pluriform.nets.mlp import MLP
from pluriform.nets.myrtle import Myrtle
from pluriform.nets.resnet import WideResNet

SHAPE = (1, 8, 8)
WIDTHS = (2, 4, 8, 16, 32)
"""In multiples of the network's own; a wide residual network, which has 64 channels itself, takes half of them."""
DRAWS = {"zoo: lenet": 2, "zoo: wrn-10-1-nonorm": 8}
"""For each unit of width; 4 elsewhere."""
REPEATS = (8, 8, 6, 4, 3)
BIAS_VAR = 0.01


class Erf(nn.Module):
    """The error function."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any tensor elementwise."""
        return torch.erf(x)


class Residual(nn.Module):
    """The input plus a branch."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Map any tensor to one of its shape."""
        return x + self.branch(x)


def dense(activation: Callable[[], nn.Module]) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1)
    )


def convolution(before: int, stride: int = 1, mode: str = "zeros") -> nn.Module:
    """3x3, 16 channels."""
    return nn.Conv2d(before, 16, 3, stride, 1, padding_mode=mode)


def branch() -> nn.Module:
    """ReLU and a layer."""
    return nn.Sequential(nn.ReLU(), nn.Linear(32, 32))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "zoo: mlp": lambda: MLP(SHAPE, 1, hidden=(32, 32)),
    "zoo: lenet": lambda: LeNet(SHAPE, 1),
    "zoo: convnet": lambda: ConvNet(SHAPE, 1, width=16),
    "zoo: myrtle5": lambda: Myrtle(SHAPE, 1, depth=5, width=8),
    "zoo: wrn-10-1-nonorm": lambda: WideResNet(SHAPE, 1, depth=10, widen=1, norm=False),
    "reference: fc2-erf": lambda: dense(Erf),
    "reference: fc2-gelu": lambda: dense(nn.GELU),
    "reference: fc-residual": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), Residual(branch()), Residual(branch()), nn.ReLU(), nn.Linear(32, 1)
    ),
    "reference: conv-circular-stride": lambda: nn.Sequential(
        convolution(1, mode="circular"),
        nn.ReLU(),
        convolution(16, 2, mode="circular"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 1),
    ),
    "reference: conv-gap": lambda: nn.Sequential(
        convolution(1), nn.ReLU(), convolution(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1)
    ),
}
"""Smallest versions; references are named as in the recorded kernels of neural-tangents."""


def relative(got: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the difference over that of the exact kernel."""
    return float((got - exact).norm() / exact.norm())


def slope(products: list[float], errors: list[float]) -> float:
    """Of the line through the logarithms."""
    return float(np.polyfit(np.log(products), np.log(errors), 1)[0])


def study(net: nn.Module, x: Tensor, widths: tuple[int, ...], draws_per_width: int) -> dict[str, object]:
    """Errors at every setting, and how they fall."""
    with torch.no_grad():
        exact = kernel_of(net, x, bias_var=BIAS_VAR)(x)
    rows = []
    for place, (width, repeats) in enumerate(zip(widths, REPEATS, strict=True)):
        draws = draws_per_width * width
        squares = np.zeros(2)
        for repeat in range(repeats):
            sampled = monte_carlo_kernel(net, x, width=width, draws=draws, seed=100 * place + repeat, bias_var=BIAS_VAR)
            errors = relative(sampled.nngp, exact.nngp), relative(sampled.ntk, exact.ntk)
            squares += np.square(errors) / repeats
        rows.append(
            {
                "width": width,
                "draws": draws,
                "repeats": repeats,
                "nngp_error": round(math.sqrt(squares[0]), 5),
                "ntk_error": round(math.sqrt(squares[1]), 5),
            }
        )
    products = [row["width"] * row["draws"] for row in rows]
    return {
        "settings": rows,
        "nngp_slope": round(slope(products, [row["nngp_error"] for row in rows]), 3),
        "ntk_slope": round(slope(products, [row["ntk_error"] for row in rows]), 3),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = pf.load("digits").train.inputs[:4].reshape(4, *SHAPE)
    images = (images - images.mean()) / images.std()
    outcome: dict[str, object] = {}
    for name, make in NETWORKS.items():
        begin = time.process_time()
        widths = tuple(width // 2 for width in WIDTHS) if "wrn" in name else WIDTHS
        outcome[name] = study(make().eval(), images, widths, DRAWS.get(name, 4))
        print(name, f"{time.process_time() - begin:.0f} s", outcome[name], flush=True)
    worst = {
        kernel: max(network["settings"][-1][f"{kernel}_error"] for network in outcome.values())  # type: ignore[index]
        for kernel in ("nngp", "ntk")
    }
    record = {
        "what": "relative Frobenius error of Monte-Carlo kernels on 4 digits, root mean square over repeats; "
        "widths in multiples of the network's own",
        "torch": torch.__version__,
        "largest_error_at_the_end": worst,
        "networks": outcome,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")

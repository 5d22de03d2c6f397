"""Empirical NTK of ResNet-18, 8 outputs, batch 8: structured derivatives beside Jacobian contraction; one thread.

    OMP_NUM_THREADS=1 python benchmarks/empirical_ntk.py

Jacobian contraction is written as in the torch.func tutorial on neural tangent kernels: `vmap(jacrev(f))` for both
batches, then an `einsum` for each parameter. Where both batches are one, its Jacobian is taken once only, which the
tutorial does not do. Writes benchmarks/empirical_ntk.json: median processor seconds, their ratio, and the largest
difference from the full kernel by Jacobian contraction, relative to its largest entry; beside it that of the einsum for
the trace, which sums 90 million products in one float32.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from pluriform.infinite.empirical import count_cost, empirical_ntk


class Block(nn.Module):
    """conv - norm - ReLU - conv - norm, plus a shortcut, then ReLU."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, before, h, w)` to `(batch, after, h / stride, w / stride)`."""
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(outputs: int) -> nn.Module:
    """ResNet-18 for 224x224 images (He, Zhang, Ren, Sun 2016, arXiv:1512.03385), 11.2 M parameters."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(before, after, stride), Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, outputs))


def contraction(net: nn.Module, x1: Tensor, x2: Tensor | None, output: str) -> Tensor:
    """The kernel by Jacobian contraction."""
    parameters = {name: weight.detach() for name, weight in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def single(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, (weights, buffers), (x.unsqueeze(0),)).squeeze(0)

    def jacobian(x: Tensor) -> list[Tensor]:
        return [part.flatten(2) for part in vmap(jacrev(single), (None, 0))(parameters, x).values()]

    first = jacobian(x1)
    second = first if x2 is None else jacobian(x2)
    equation = {"full": "Naf,Mbf->NMab", "trace": "Naf,Maf->NM", "diagonal": "Naf,Maf->NMa"}[output]
    parts = torch.stack([torch.einsum(equation, a, b) for a, b in zip(first, second, strict=True)])
    return parts.sum(0) / (parts.new_tensor(net[-1].out_features) if output == "trace" else 1)


def seconds(compute: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor time of one call, and what it gave."""
    begin = time.process_time()
    kernel = compute()
    return time.process_time() - begin, kernel


def measure(net: nn.Module, x1: Tensor, x2: Tensor | None, output: str, repeats: int) -> dict[str, object]:
    """Both algorithms in turn, so that a drift of the machine meets both."""
    times: dict[str, list[float]] = {"jacobian": [], "structured": []}
    whole = contraction(net, x1, x2, "full")
    exact = whole if output == "full" else whole.diagonal(dim1=2, dim2=3).mean(2)
    error = own = 0.0
    for _ in range(repeats):
        for_jacobian, expected = seconds(lambda: contraction(net, x1, x2, output))
        for_structured, got = seconds(lambda: empirical_ntk(net, x1, x2, algorithm="structured", output=output))
        times["jacobian"].append(for_jacobian)
        times["structured"].append(for_structured)
        error = max(error, float((got - exact).abs().max() / exact.abs().max()))
        own = max(own, float((expected - exact).abs().max() / exact.abs().max()))
    middle = {name: statistics.median(values) for name, values in times.items()}
    counted = count_cost(net, x1, x2, output=output)
    return {
        "jacobian_s": round(middle["jacobian"], 3),
        "structured_s": round(middle["structured"], 3),
        "speedup": round(middle["jacobian"] / middle["structured"], 2),
        "largest_relative_difference": float(f"{error:.2e}"),
        "of_the_einsum_itself": float(f"{own:.2e}"),
        "counted_speedup": round(counted.jacobian / counted.structured, 2),
        "chosen_by_auto": counted.algorithm,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--outputs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = resnet18(options.outputs).eval()
    x1, x2 = torch.randn(2, options.batch, 3, options.size, options.size)
    small = torch.randn(2, 3, 32, 32)
    contraction(net, small, None, "full")  # what torch loads at first use is not timed
    empirical_ntk(net, small, algorithm="structured")
    rows = {}
    for output in ("full", "trace"):
        for name, second in (("two batches", x2), ("one batch with itself", None)):
            rows[f"{output}, {name}"] = measure(net, x1, second, output, options.repeats)
            print(f"{output}, {name}: {rows[f'{output}, {name}']}", flush=True)
    what = (
        f"ResNet-18, {options.outputs} outputs, batch {options.batch}, images 3x{options.size}x{options.size}, "
        f"float32, one thread, median processor seconds of {options.repeats}"
    )
    outcome = {"what": what, "torch": torch.__version__, "kernels": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(outcome, indent=1) + "\n")

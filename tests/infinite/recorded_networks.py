"""Networks whose kernels are recorded in `recorded_networks.npz`, as plain descriptions.

Recorded in float64 with neural-tangents 0.6.5 and JAX 0.4.30 by `benchmarks/peers/record_networks.py`, which builds the
same descriptions from `neural_tangents.stax`. Channels come first here, last there. Only the standard library and NumPy
are imported, so that every environment can read it.
"""

from typing import Any

__all__ = ["NETWORKS", "SEED", "SIZES"]

SEED, SIZES = 20, (5, 3)
Layer = tuple[str, dict[str, Any]]


def linear(out: int = 8, w: float = 1.6, b: float | None = 0.1) -> Layer:
    return "linear", {"out": out, "w": w, "b": b}


def conv(kernel: list[int], stride: list[int], padding: str, w: float = 1.6, b: float | None = 0.1) -> Layer:
    return "conv", {"out": 6, "kernel": kernel, "stride": stride, "padding": padding, "w": w, "b": b}


def act(kind: str, *numbers: float) -> Layer:
    return "act", {"kind": kind, "numbers": numbers}


def pool(kind: str, kernel: list[int], stride: list[int], padding: str, normalize: bool = False) -> Layer:
    return "pool", {"kind": kind, "kernel": kernel, "stride": stride, "padding": padding, "normalize": normalize}


def join(kind: str, *branches: list[Layer]) -> Layer:
    return "join", {"kind": kind, "branches": branches}


def norm(axes: str) -> Layer:
    return "norm", {"axes": axes}


def dropout(p: float, train: bool = True) -> Layer:
    return "dropout", {"p": p, "train": train}


GAP, GLOBAL_SUM, FLATTEN, IDENTITY, OUT = ("gap", {}), ("gsum", {}), ("flatten", {}), ("identity", {}), linear(1, 1.2)

NETWORKS: dict[str, dict[str, Any]] = {
    "asymmetric-same": {
        "input": (2, 4, 5),
        "layers": [
            conv([2, 3], [1, 2], "same"), act("relu"), conv([3, 2], [2, 1], "same", b=None), act("gelu"), GAP, OUT,
        ],
    },
    "circular-even": {
        "input": (2, 5, 4),
        "layers": [
            conv([2, 3], [1, 1], "circular"), act("leaky", -0.2), conv([3, 2], [2, 1], "circular"), act("abs"), FLATTEN,
            OUT,
        ],
    },
    "one-axis-overlapping-pools": {
        "input": (3, 8),
        "layers": [
            conv([3], [1], "same"), act("gelu"), pool("avg", [3], [1], "same", True), conv([3], [2], "valid"),
            act("sin", 1.2, 0.8, 0.3), pool("avg", [2], [1], "circular"), conv([2], [1], "same"), act("relu"), GAP, OUT,
        ],
    },
    "three-axes-sums": {
        "input": (2, 3, 4, 3),
        "layers": [
            conv([2, 3, 1], [1, 1, 1], "valid"), act("erf", 1.0, 1.0, 0.0), pool("sum", [2, 2, 2], [1, 2, 1], "valid"),
            conv([1, 2, 2], [1, 1, 1], "same"), act("cos", 1.0, 0.5, 0.0), GLOBAL_SUM, OUT,
        ],
    },
    "pool-same-asymmetric": {
        "input": (2, 5, 4),
        "layers": [
            conv([3, 3], [1, 1], "same"), pool("avg", [2, 3], [1, 2], "same"), act("abrelu", -0.3, 0.8),
            pool("sum", [2, 2], [2, 1], "same"), conv([2, 2], [1, 1], "same"), act("relu"), FLATTEN, OUT,
        ],
    },
    "norms-of-channels-and-all": {
        "input": (2, 4, 4),
        "layers": [
            conv([3, 3], [1, 1], "same"), norm("channel"), act("relu"), conv([3, 3], [1, 1], "same"), norm("all"),
            act("gelu"), GAP, linear(), norm("channel"), act("erf", 1.3, 0.7, 0.0), OUT,
        ],
    },
    "dropout-then-pool": {
        "input": (2, 4, 4),
        "layers": [
            conv([3, 3], [1, 1], "same"), act("relu"), dropout(0.3), pool("avg", [2, 2], [1, 1], "valid"),
            conv([2, 2], [1, 1], "same"), act("sin", 1.0, 1.0, 0.0), dropout(0.5, train=False), dropout(0.2), GAP, OUT,
        ],
    },
    "standard-widths": {
        "input": (3, 4, 4), "parameterization": "standard",
        "layers": [
            conv([3, 2], [1, 1], "same"), act("relu"),
            join("concat", [conv([1, 1], [1, 1], "same", b=None)], [conv([3, 3], [1, 1], "same"), act("gelu")]),
            conv([2, 2], [2, 2], "valid"), act("erf", 1.0, 1.0, 0.0), FLATTEN, linear(12, b=None), act("relu"), OUT,
        ],
    },
    "nested-sums": {
        "input": (2, 4, 4),
        "layers": [
            conv([3, 3], [1, 1], "same"),
            join(
                "sum",
                [
                    act("relu"), conv([3, 3], [1, 1], "same"),
                    join("sum", [act("gelu"), conv([3, 3], [1, 1], "circular", b=None)], [IDENTITY]), act("abs"),
                    conv([1, 2], [1, 1], "same"), norm("channel"),
                ],
                [conv([1, 1], [1, 1], "same", 0.7)],
                [IDENTITY],
            ),
            act("relu"), GAP, OUT,
        ],
    },
    "products": {
        "input": (7,),
        "layers": [
            linear(),
            join(
                "product",
                [act("relu"), linear(), act("sigmoid")],
                [act("gelu"), linear(b=None), join("product", [linear()], [linear(), act("exp", 0.5, 0.4)])],
                [linear(), norm("channel")],
            ),
            linear(), act("erf", 1.0, 1.0, 0.4), OUT,
        ],
    },
    "powers": {
        "input": (7,),
        "layers": [
            linear(), act("polynomial", 0.3, 1.0, 0.5, 0.1), linear(), norm("channel"), act("monomial", 3),
            linear(w=0.1), act("rectified", 2), OUT,
        ],
    },
    "waves-and-bells": {
        "input": (7,),
        "layers": [
            linear(), act("exp", 0.7, 0.5), linear(), act("gaussian", 1.3, -0.4), linear(), act("rbf", 0.5), linear(),
            act("cos", 1.2, 0.8, 0.3), linear(), act("sigmoid"), OUT,
        ],
    },
    "sign-and-step": {
        "input": (7,),
        "layers": [
            linear(), act("erf", 1.0, 1.0, 0.0),
            join("concat", [linear(), act("sign")], [linear(), act("rectified", 0)], [linear(12), act("rectified", 3)]),
            OUT,
        ],
    },
}  # fmt: skip

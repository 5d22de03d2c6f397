"""Record kernels of the networks of `tests/infinite/recorded_networks.py` with neural-tangents in float64.

    .venv-peers/bin/python benchmarks/peers/record_networks.py

Writes `tests/infinite/recorded_networks.npz`: inputs, and NNGP and NTK of the first inputs with the second and with
themselves.
"""

import math
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from neural_tangents import stax

FOLDER = Path(__file__).parents[2] / "tests" / "infinite"
sys.path.append(str(FOLDER))

from recorded_networks import NETWORKS, SEED, SIZES  # noqa: E402

ACTIVATIONS = {
    "relu": stax.Relu, "leaky": stax.LeakyRelu, "abs": stax.Abs, "abrelu": stax.ABRelu, "erf": stax.Erf,
    "gelu": stax.Gelu, "sin": stax.Sin, "cos": stax.Cos, "exp": stax.Exp, "gaussian": stax.Gaussian, "rbf": stax.Rbf,
    "sign": stax.Sign, "sigmoid": stax.Sigmoid_like, "monomial": stax.Monomial, "rectified": stax.RectifiedMonomial,
}  # fmt: skip
JOINS = {"sum": stax.FanInSum, "product": stax.FanInProd, "concat": stax.FanInConcat}
PLAIN = {"gap": stax.GlobalAvgPool, "gsum": stax.GlobalSumPool, "flatten": stax.Flatten, "identity": stax.Identity}


def serial(layers: list, parameterization: str, axes: int) -> tuple:
    """A sequence of layers."""

    def layer(op: str, facts: dict[str, Any]) -> tuple:
        if op in PLAIN:
            return PLAIN[op]()
        if op == "act":
            if facts["kind"] == "polynomial":
                return stax.Polynomial(facts["numbers"])
            return ACTIVATIONS[facts["kind"]](*facts["numbers"])
        if op == "norm":
            return stax.LayerNorm(-1 if facts["axes"] == "channel" else tuple(range(1, axes + 2)), eps=1e-5)
        if op == "dropout":
            return stax.Dropout(1 - facts["p"], "train" if facts["train"] else "test")
        if op == "join":
            parts = [serial(branch, parameterization, axes) for branch in facts["branches"]]
            return stax.serial(stax.FanOut(len(parts)), stax.parallel(*parts), JOINS[facts["kind"]]())
        if op == "pool":
            where = tuple(facts["kernel"]), tuple(facts["stride"]), facts["padding"].upper()
            if facts["kind"] == "sum":
                return stax.SumPool(*where)
            return stax.AvgPool(*where, normalize_edges=facts["normalize"])
        deviations = math.sqrt(facts["w"]), None if facts["b"] is None else math.sqrt(facts["b"])
        if op == "linear":
            return stax.Dense(facts["out"], *deviations, parameterization=parameterization)
        where = tuple(facts["kernel"]), tuple(facts["stride"]), facts["padding"].upper()
        return stax.Conv(facts["out"], *where, *deviations, parameterization=parameterization)

    return stax.serial(*(layer(*item) for item in layers))


def main() -> None:
    """Record all."""
    jax.config.update("jax_enable_x64", True)
    generator, found = np.random.default_rng(SEED), {}
    for name, network in NETWORKS.items():
        shape = network["input"]
        x1, x2 = (generator.standard_normal((count, *shape)) for count in SIZES)
        _, _, kernel = serial(network["layers"], network.get("parameterization", "ntk"), len(shape) - 1)
        found |= {f"{name}/x1": x1, f"{name}/x2": x2}
        for side, others in (("cross", np.moveaxis(x2, 1, -1)), ("train", None)):
            record = kernel(np.moveaxis(x1, 1, -1), others, ("nngp", "ntk"))
            found |= {f"{name}/{side}_nngp": np.asarray(record.nngp), f"{name}/{side}_ntk": np.asarray(record.ntk)}
    np.savez_compressed(FOLDER / "recorded_networks.npz", **found)


if __name__ == "__main__":
    main()

"""`empirical_ntk`: the neural tangent kernel of one network, by the algorithm that counts cheapest."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from pluriform.infinite.empirical.contraction import Over
from pluriform.infinite.empirical.jacobian import JacobianContraction
from pluriform.infinite.empirical.ntk_vp import NtkVectorProducts
from pluriform.infinite.empirical.structured import StructuredDerivatives
from pluriform.infinite.empirical.subject import subject_of
from pluriform.infinite.empirical.tiles import TileSize, tiled

__all__ = ["Algorithm", "empirical_ntk"]

Algorithm = Literal["auto", "jacobian", "ntk-vp", "structured"]


def empirical_ntk(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    algorithm: Algorithm = "auto",
    output: Over = "full",
    chunk: int | None = None,
) -> Float[Tensor, "n1 n2 *pairs"]:
    """X"""
    subject = subject_of(module, x1)
    subject.check_inputs(x1, x2)
    method = {
        "jacobian": JacobianContraction,
        "ntk-vp": NtkVectorProducts,
        "structured": StructuredDerivatives,
        "auto": StructuredDerivatives,
    }[algorithm](subject)
    return tiled(method, x1, x2, output, TileSize(chunk or len(x1), subject.outputs))

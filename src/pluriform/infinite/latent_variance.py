"""The variance of the infinite ensemble as a module that is saved with its form."""

from torch import Tensor, nn

from pluriform.gaussian_process.tiles import PackedTiles, Tiling
from pluriform.infinite.predict.gradient_flow import GradientFlow, flow_variance
from pluriform.infinite.predict.tiled_flow import TiledFlow

__all__ = ["DenseVariance", "TiledVariance", "latent_variance"]


class DenseVariance(nn.Module):
    """`diag(K_** + T B T' - 2 T M_t K_X*)` from whole matrices.

    Args:
        flow: The solved training dynamics.
    """

    spread: Tensor
    gain: Tensor | None

    def __init__(self, flow: GradientFlow) -> None:
        super().__init__()
        self.register_buffer("spread", flow.spread)
        self.register_buffer("gain", flow.gain if flow.all_layers else None)

    def forward(self, cross: Tensor, nngp: Tensor, own: Tensor) -> Tensor:
        """Variance at new points; arguments as of `GradientFlow.variance`."""
        return flow_variance(cross, nngp, own, self.spread, self.gain)


class TiledVariance(nn.Module):
    """The same from packed tiles: a factor, and the NNGP where the NTK flows.

    Args:
        flow: The solved end of training.
    """

    factor: Tensor
    nngp: Tensor | None

    def __init__(self, flow: TiledFlow) -> None:
        super().__init__()
        tiling = flow.factor.tiling
        self.samples, self.side = tiling.samples, tiling.side
        self.register_buffer("factor", flow.factor.buffer)
        self.register_buffer("nngp", None if flow.nngp is None else flow.nngp.buffer)

    def forward(self, cross: Tensor, nngp: Tensor, own: Tensor) -> Tensor:
        """Variance at new points; arguments as of `TiledFlow.variance`."""
        tiling = Tiling(self.samples, self.side)
        packed = None if self.nngp is None else PackedTiles(tiling, self.nngp)
        return TiledFlow(cross.new_empty(self.samples, 0), PackedTiles(tiling, self.factor), packed).variance(
            cross, nngp, own
        )


def latent_variance(flow: GradientFlow | TiledFlow) -> DenseVariance | TiledVariance:
    """The module for a solution."""
    return TiledVariance(flow) if isinstance(flow, TiledFlow) else DenseVariance(flow)

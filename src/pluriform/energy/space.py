"""`Space`: unit and bounds of the inputs, so that step sizes mean the same for all data."""

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs
from pluriform.data.data import Data, Split
from pluriform.data.signature import Bounds
from pluriform.errors import BoundsError, explain

__all__ = ["Space", "training_samples"]

SAMPLES = 20_000  # That statistics of the inputs are taken from.
FLAT = 1e-6  # Standard deviations below it, relative to the largest, count as constant.


class Space(nn.Module):
    """The inputs as u = (x - middle) / unit.

    Bounded inputs span [-1, 1]. Unbounded ones, which are tables, have unit variance in every feature.

    Args:
        middle: Broadcasts against one input.
        unit: Likewise; above zero.
        bounds: Lowest and highest legal value, or `None`.
    """

    middle: Tensor
    unit: Tensor

    def __init__(self, middle: Tensor, unit: Tensor, bounds: Bounds | None) -> None:
        super().__init__()
        self.register_buffer("middle", middle)
        self.register_buffer("unit", unit)
        self.bounds = bounds

    @staticmethod
    def of(data: Data) -> "Space":
        """That of a data set.

        Raises:
            BoundsError: Images or other arrays with unknown bounds, or bounds with no room between them.
        """
        if data.bounds is not None:
            low, high = data.bounds
            if not low < high:
                remedy = "give the lowest and highest legal value"
                raise BoundsError(explain("a lowest value below the highest", f"{data.bounds}", data.name, remedy))
            like = data.train.batch(torch.arange(1))[0].dtype
            middle, unit = (torch.tensor(value / 2, dtype=like) for value in (low + high, high - low))
            return Space(middle, unit, (low, high))
        if len(data.input_shape) != 1:
            raise BoundsError(
                explain(
                    f"bounds of inputs of shape {data.input_shape}, which chains must not leave",
                    "bounds=None",
                    data.name,
                    "name the lowest and highest legal value: dataclasses.replace(data, bounds=(0.0, 1.0))",
                )
            )
        inputs = training_samples(data).inputs.cpu()
        unit = inputs.std(0, correction=0)
        unit = torch.where(unit > FLAT * unit.max(), unit, unit.max().clamp(min=FLAT))
        return Space(inputs.mean(0), unit, None)

    def clamp(self, inputs: Inputs) -> Inputs:
        """Inputs within the bounds, in place."""
        return inputs if self.bounds is None else inputs.clamp_(*self.bounds)

    def reach(self, inputs: Inputs) -> Tensor:
        """Largest distance of an entry from the middle, in units."""
        return ((inputs - self.middle) / self.unit).abs().max()


def training_samples(data: Data) -> Split:
    """Training samples, at most 20,000 evenly spread ones."""
    if isinstance(data.train, Split) and len(data.train) <= SAMPLES:
        return data.train
    index = torch.linspace(0, len(data.train) - 1, min(SAMPLES, len(data.train)), dtype=torch.float64).long()
    parts = [data.train.batch(part) for part in index.split(1000)]
    return Split(*(torch.cat(column) for column in zip(*parts, strict=True)))

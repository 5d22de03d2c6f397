"""The letters for tensor axes, written once.

| name | meaning |
|---|---|
| `batch` | samples in one call |
| `outputs` | classes, or regression targets |
| `member` | networks of an ensemble |
| `bins` | calibration bins |
| `n1`, `n2` | rows and columns of a Gram matrix |

The aliases are read by people and, in the test run only, checked by beartype.
"""

from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = ["Gram", "Images", "Inputs", "Labels", "Logits", "Members", "Probabilities", "Scores", "Targets"]

Inputs = Float[Tensor, "batch *features"]
Images = Float[Tensor, "_ _ _ _"]
"""`(batch, channels, height, width)`, each image argument with sizes of its own."""
Logits = Float[Tensor, "batch outputs"]
Probabilities = Float[Tensor, "batch outputs"]
Members = Float[Tensor, "member batch outputs"]
Labels = Int[Tensor, "batch"]
Targets = Shaped[Tensor, "batch *outputs"]
Scores = Float[Tensor, "batch"]
Gram = Float[Tensor, "n1 n2"]

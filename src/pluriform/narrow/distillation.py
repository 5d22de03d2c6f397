"""`Distillation`: a thin network learns the outputs of a wide one."""

from dataclasses import dataclass
from typing import Any

from pluriform.data.data import Data
from pluriform.method import FitContext
from pluriform.narrow.from_wide import FromWide
from pluriform.narrow.narrowed import Narrowed

__all__ = ["Distillation"]


@dataclass(frozen=True)
class Distillation(FromWide):
    """Train the network on its labels and on the softened outputs of a wide copy of itself.

    With z the logits and T the temperature, the loss is

        (1 - alpha) * cross-entropy + alpha * T^2 * KL(softmax(z_wide / T) || softmax(z_thin / T)),

    in regression (1 - alpha) and alpha times the mean squared errors to the targets and to the wide network. The wide
    network is the given one with all free channel groups widened, drawn anew and trained on the labels; or any saved
    form, of another class or an ensemble too. It stays in evaluation mode. `form.cost` counts its training under
    `wide_...`, and within `training_seconds`.

    Args:
        widen: Width of the wide network, in units of the thin one's.
        wide: Folder of a trained form to learn from instead.
        alpha: Share of the wide network's outputs in the loss; 0 is plain training.
        temperature: T.
        training: How the thin network is trained; a `Training` serves.
        wide_training: How the wide network is trained.
        reinitialise: Draw new initial weights of the thin network from the seed instead of starting from the given
            ones.
        cache_bytes: Memory for the outputs of the wide network on the training split, which are then computed once; 0
            computes them with each batch, as is always done under augmentation.

    References:
        Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> short = pf.Training(epochs=2)
        >>> form = Distillation(training=short, wide_training=short).fit(pf.nets.build("mlp", data), data)
        >>> form.predict(data.test.inputs[:3]).mean.shape
        torch.Size([3, 10])
    """

    def _fit(self, module: Any, data: Data, context: FitContext) -> Narrowed:
        wide = self._trained_wide(module, data, context)
        thin = self._started(module, context)
        return self._form(thin, data, context, wide, [lambda: self._loop(thin, wide.network, data, context)])

"""`Prediction`, the record that every form answers with, and the two bases of fitted forms."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.axes import Images, Inputs, Logits, Members, Probabilities, Scores
from pluriform.data.signature import Signature
from pluriform.errors import NonFiniteError, ShapeError, explain
from pluriform.forms import save_form
from pluriform.freed_memory import keep_freed_memory

__all__ = ["Prediction", "Predictor", "Translator"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a form says about a batch.

    Attributes:
        mean: Class probabilities, or regression means.
        variance: In regression of the targets, noise included; in classification of the latent outputs; `None`
            where the form knows none.
        members: The same quantity as `mean` for every member of an ensemble.
        score: Higher means more in-distribution; `None` where the form has no score of its own.
    """

    mean: Probabilities
    variance: Probabilities | None = None
    members: Members | None = None
    score: Scores | None = None

    def __len__(self) -> int:
        return len(self.mean)

    @staticmethod
    def concatenate(parts: "list[Prediction]") -> "Prediction":
        """One prediction from those of consecutive batches."""

        def joined(name: str, axis: int) -> Tensor | None:
            pieces = [getattr(part, name) for part in parts]
            return None if any(piece is None for piece in pieces) else torch.cat(pieces, axis)

        return Prediction(
            torch.cat([part.mean for part in parts]), joined("variance", 0), joined("members", 1), joined("score", 0)
        )


class Predictor(nn.Module, ABC):
    """A fitted form of a network: itself a module.

    `forward(x)` is differentiable and gives logits (classification) or means (regression), `(batch, outputs)`;
    `predict(x)` gives a `Prediction`. In classification `prediction.mean == softmax(forward(x))` always.

    Everything that a form is lives in parameters, buffers, submodules and attributes that JSON can hold, so that `save`
    needs no pickle.

    Args:
        signature: Facts of the data the form was fitted on; gives the form its bounds and class names.

    Attributes:
        origin: What made it, as plain JSON: `label`, `method`, `network`, `seed`, and where it was made from a form the
            origin of that as `source`; filled by `Method.fit`.
    """

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature
        self.batch_size = 256
        self.origin: dict[str, Any] = {}

    @abstractmethod
    def forward(self, inputs: Inputs) -> Logits:
        """Logits or means, differentiable in `inputs`."""

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """The prediction for one batch that fits memory; forms with members or a score override it."""
        return Prediction(self.probabilities(self(inputs)))

    def input_scores(self, inputs: Inputs) -> dict[str, Scores]:
        """Further scores by name that need gradients of the inputs, higher meaning more in-distribution; none here."""
        del inputs
        return {}

    def probabilities(self, outputs: Logits) -> Probabilities:
        """Softmax of logits in classification, the outputs themselves in regression."""
        return outputs.softmax(-1) if self.signature.task == "classification" else outputs

    @torch.no_grad()
    def predict(self, inputs: Inputs, batch_size: int | None = None) -> Prediction:
        """Predict in evaluation mode, batch by batch; every submodule's mode is restored.

        Args:
            inputs: Shape `(batch, *input_shape)`.
            batch_size: Samples at once; the form's own `batch_size` unless given.

        Returns:
            One `Prediction` for all inputs.

        Raises:
            ShapeError: The inputs are no floating-point tensor of the shape the form was fitted on.
            NonFiniteError: They hold NaN or infinity.
        """
        self.check_inputs(inputs, "predict")
        modes = {module: module.training for module in self.modules()}
        batches = inputs.split(batch_size or self.batch_size)
        self.eval()
        try:
            with keep_freed_memory() if len(batches) > 1 else nullcontext():
                parts = [self.predict_batch(self.suited(batch)) for batch in batches]
        finally:
            for module, mode in modes.items():
                module.training = mode
        return Prediction.concatenate(parts)

    def suited(self, inputs: Inputs) -> Inputs:
        """Inputs where the form's tensors live, in the precision of its weights."""
        weight = next((part for part in self.parameters() if part.is_floating_point()), None)
        return inputs.to(self.device) if weight is None else inputs.to(self.device, weight.dtype)

    def check_inputs(self, inputs: Any, where: str) -> None:
        """Raise where `inputs` are none that this form takes; `where` names the call.

        Raises:
            ShapeError: They are no floating-point tensor of the shape the form was fitted on.
            NonFiniteError: They hold NaN or infinity.
        """
        where = f"{where} of {type(self).__name__}"
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            got = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ShapeError(explain("a floating-point tensor", got, where, "write torch.as_tensor(inputs).float()"))
        if tuple(inputs.shape[1:]) != self.signature.input_shape or len(inputs) == 0:
            raise ShapeError(
                explain(
                    f"inputs of shape (batch, {', '.join(map(str, self.signature.input_shape))}), batch at least 1",
                    f"{tuple(inputs.shape)}",
                    where,
                    "pass inputs like those of the data set the form was fitted on",
                )
            )
        if not inputs.isfinite().all():
            raise NonFiniteError(explain("finite inputs", "NaN or infinity", where, "clean the inputs"))

    @property
    def device(self) -> torch.device:
        """Where the form's tensors live."""
        tensor = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def save(self, path: str | Path) -> Path:
        """Write the form to the folder `path` (structure as JSON, tensors as safetensors); read by `load_form`."""
        return save_form(self, path)


class Translator(nn.Module, ABC):
    """The image-to-image twin of `Predictor`.

    `forward(content, style=None)` maps images `(batch, channels, height, width)` to images, inside `signature.bounds`.

    Args:
        signature: Facts of the data the form was fitted on; `classes` are those of label maps, where contents are such.

    Attributes:
        origin: What made it, as of a `Predictor`.
    """

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature
        self.origin: dict[str, Any] = {}

    @abstractmethod
    def forward(self, content: Images, style: Images | None = None) -> Images:
        """Translated images, differentiable in both arguments."""

    @property
    def device(self) -> torch.device:
        """Where the form's tensors live."""
        tensor = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    def save(self, path: str | Path) -> Path:
        """Write the form to the folder `path`; read by `load_form`."""
        return save_form(self, path)

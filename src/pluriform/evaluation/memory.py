"""Peak memory of a prediction."""

from torch import Tensor

from pluriform.metrics.memory import Peak, peak_of
from pluriform.prediction import Predictor

__all__ = ["peak_memory"]


def peak_memory(form: Predictor, inputs: Tensor) -> Peak:
    """The most memory that `form.predict(inputs)` holds at once, the form's own tensors included."""
    held = (*form.parameters(), *form.buffers(), inputs)
    return peak_of(lambda: form.predict(inputs), held, form.device, "predict")

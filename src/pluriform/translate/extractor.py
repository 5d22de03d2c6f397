"""Which extractor a network given to `fit` is."""

from torch import nn

from pluriform.data.data import Data
from pluriform.errors import ShapeError, explain
from pluriform.prediction import Predictor
from pluriform.translate.perceptual import PerceptualExtractor, classifier_extractor
from pluriform.translate.scale import Scale

__all__ = ["extractor_of"]


def extractor_of(module: nn.Module | None, data: Data, scale: Scale) -> PerceptualExtractor | None:
    """The extractor that a network gives, `None` for none.

    Args:
        module: An extractor (`vgg19_extractor(path)`, `random_extractor(3)`); a form of one network, whose inputs and
            bounds are those it was fitted on; or a plain network, which is taken to read the target images of `data` in
            their bounds.
        data: Whose images are looked at.
        scale: Of the data.

    Raises:
        ShapeError: The network does not take these images.
        GraphError: It has no feature maps.
    """
    if module is None or isinstance(module, PerceptualExtractor):
        return module
    if isinstance(module, Predictor):
        return classifier_extractor(module)
    shape = (scale.outputs, data.input_shape[1], data.input_shape[2])
    try:
        return classifier_extractor(module, input_shape=shape, bounds=(scale.low, scale.high))
    except (RuntimeError, ValueError) as error:
        expected, got = (
            f"a network that takes images of shape {shape}",
            f"{type(error).__name__}: {error}".split("\n")[0],
        )
        remedy = "fit a classifier on such images, or leave the module out"
        raise ShapeError(explain(expected, got, f"extractor {type(module).__name__}", remedy)) from error

"""Labelled training images in the look of another domain, as augmentation."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pluriform.data.data import Data, Split
from pluriform.data.split import holdout
from pluriform.errors import ConfigError, explain
from pluriform.training.seeds import derive_seed

__all__ = ["mixed_with_translations"]

AT_ONCE = 32


def mixed_with_translations(
    data: Data, translate: Callable[[Tensor, int], Tensor], originals: float | int, versions: int, seed: int
) -> Data:
    """The data set with a training split of `versions` copies, each a mixture of originals and translations.

    Args:
        data: With labels or values; only its training images change.
        translate: Images and a seed to as many images of the same shape.
        originals: Share of every copy that stays as it is, drawn by class share.
        versions: Copies, each with draws of its own.
        seed: Of what stays and of the seeds given to `translate`, one for 32 images.

    Raises:
        ConfigError: No such share or number, data for translation, or data that are not in memory.
    """
    train, where = data.train, f"augment {data.name}"
    if not isinstance(train, Split) or data.task == "translation":
        got = "data for translation" if data.task == "translation" else "samples read on demand"
        raise ConfigError(explain("labelled images in memory", got, where, "load the labelled set as tensors"))
    if not 0 <= originals < 1:
        remedy = "0 translates every image, 0.5 every second one"
        raise ConfigError(explain("originals in [0, 1)", f"{originals}", where, remedy))
    if versions < 1:
        raise ConfigError(explain("at least 1 version", f"{versions}", where, "change versions"))
    labels = train.targets if data.task == "classification" else None
    inputs = torch.cat(
        [_mixture(train.inputs, labels, translate, originals, derive_seed(seed, number)) for number in range(versions)]
    )
    targets = train.targets.repeat(versions, *[1] * (train.targets.dim() - 1))
    return replace(data, train=Split(inputs, targets))


def _mixture(
    images: Tensor, labels: Tensor | None, translate: Callable[[Tensor, int], Tensor], originals: float | int, seed: int
) -> Tensor:
    """One copy: in the order of the images, some of them translated."""
    chosen, _ = holdout(len(images), labels, originals, derive_seed(seed, "originals"))
    found = images.clone()
    for number, place in enumerate(chosen.split(AT_ONCE)):
        found[place] = translate(images[place], derive_seed(seed, "translations", number)).to(found)
    return found

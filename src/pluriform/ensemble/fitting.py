"""What the methods that start from one trained network share: its training, and the noise of a regression."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.method import FitContext
from pluriform.metrics.regression import fit_noise
from pluriform.prediction import Predictor
from pluriform.training.feed import Batch, Feed, resident, take
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["fitted_noise", "training_loop"]


def training_loop(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    context: FitContext,
    *,
    epochs: int,
    seed: int | None = None,
    before: Callable[[], None] = lambda: None,
    label: str = "training",
) -> Loop:
    """The loop of ordinary training over `network`, which lies on the device of the fit.

    Args:
        network: Trained in place.
        data: Data set.
        recipe: Hyper-parameters.
        context: Run and device; its seed unless `seed` is given.
        epochs: Passes over the training split.
        seed: Of the order of the data and of the network's own draws.
        before: Called before every step.
        label: Names checkpoint and log lines.
    """
    seed = context.seed if seed is None else seed
    loss, plain = Loss.of(recipe, data, context.device), Loss(data.task)
    checked = resident(data.validation, context.device)

    feed = Feed(data, recipe.batch_size, seed, recipe.augmentation, context.device)
    plain_step = training_step(network, loss, feed, recipe, epochs)

    def step(batch: Batch) -> Tensor:
        before()
        return plain_step(batch)

    return Loop(
        network,
        step,
        feed,
        recipe,
        seed=seed,
        epochs=epochs,
        run=context.run,
        validate=(lambda: assess(network, checked, plain, context.device)) if len(checked) else None,
        label=label,
    )


def fitted_noise(form: Predictor, data: Data) -> Tensor | None:
    """Noise variance of each output that, with the variance of the members, has the largest likelihood.

    Args:
        form: An ensemble without noise.
        data: Its validation split is used, or the training split where that is empty.

    Returns:
        Shape `(outputs,)`, in squared target units; `None` in classification.
    """
    if data.task != "regression":
        return None
    split = data.validation if len(data.validation) else data.train
    inputs, targets = take(split, torch.arange(len(split)))
    prediction = form.predict(inputs)
    latent = torch.zeros_like(prediction.mean) if prediction.variance is None else prediction.variance
    columns = [
        fit_noise(*(part[:, [column]].cpu() for part in (prediction.mean, latent, targets)))
        for column in range(targets.shape[1])
    ]
    return torch.tensor(columns, dtype=prediction.mean.dtype, device=form.device)

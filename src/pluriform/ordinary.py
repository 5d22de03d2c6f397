"""`Training`: the network, trained as everyone does."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pluriform.axes import Inputs, Logits
from pluriform.data.data import Data
from pluriform.data.signature import Signature
from pluriform.method import FitContext, Method
from pluriform.prediction import Prediction, Predictor
from pluriform.training.feed import Feed, resident
from pluriform.training.initialisation import reinitialise
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.step import training_step
from pluriform.training.validation import assess, residual_variance

__all__ = ["Network", "Training"]


class Network(Predictor):
    """One network as a form; `form.module` is of the user's own class.

    In regression the predictive distribution is Gaussian with a constant variance `noise`, the mean squared error of
    each output on the validation split (on the training split where that is empty), and `prediction.variance` is it.

    Args:
        module: The fitted network.
        signature: Facts of the data it was fitted on.
        noise: Noise variance of each regression output, shape `(outputs,)`; `None` in classification.
        cost: Figures of the fit, as `FitCost` names them.
    """

    noise: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        noise: Tensor | None = None,
        cost: dict[str, float | int] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module = module
        self.register_buffer("noise", noise)
        self.cost = cost or {}

    def forward(self, inputs: Inputs) -> Logits:
        """Outputs of the network."""
        return self.module(inputs)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Class probabilities, or means with the noise variance."""
        mean = self.probabilities(self(inputs))
        return Prediction(mean, None if self.noise is None else self.noise.expand_as(mean))


@dataclass(frozen=True)
class Training(Recipe, Method):
    """Train the network by stochastic gradient descent, from the weights it comes with.

    Cross-entropy in classification, mean squared error in regression.

    Args:
        epochs: Passes over the training split; `None` for about 6,000 steps, at least 15 epochs and at most 60 (or, for
            small data, as many as make 600 steps).
        batch_size: Samples a step.
        learning_rate: Peak of the schedule.
        optimizer: AdamW, or SGD with momentum 0.9.
        weight_decay: Decoupled in AdamW, part of the gradient in SGD.
        schedule: Of the learning rate, after the warm-up: `cosine`, `step` (a tenth at 50 % and 75 %), `constant`,
            `one-cycle`.
        warmup: Share of all steps with a linearly rising rate.
        label_smoothing: Share of the target probability spread over all classes.
        class_weights: `balanced` weighs each class by the inverse of its frequency; or one weight a class.
        augmentation: Random changes of the training images.
        patience: Stop after this many epochs without a lower validation loss and restore the best; `None` never stops.
        clip_norm: Largest norm of the gradient.
        ema: Decay of an exponential moving average of the weights, which then become the result; `None` for none.
        precision: `bf16` computes matrix products and convolutions in bfloat16, weights stay in float32.
        tensorboard: Also write TensorBoard files into the run; needs the extra `tensorboard`.
        reinitialise: Draw new initial weights from the seed instead of starting from the given ones.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> form = pf.Training(epochs=2).fit(pf.nets.build("mlp", data), data)
        >>> form.predict(data.test.inputs[:3]).mean.shape
        torch.Size([3, 10])
    """

    reinitialise: bool = False

    def _fit(self, module: Any, data: Data, context: FitContext) -> Network:
        module = module.to(context.device)
        if self.reinitialise:
            reinitialise(module, context.seed)
        loss = Loss.of(self, data, context.device)
        checked = resident(data.validation, context.device)
        feed = Feed(data, self.batch_size, context.seed, self.augmentation, context.device)
        epochs = self.epochs_for(len(data.train))
        loop = Loop(
            module,
            training_step(module, loss, feed, self, epochs),
            feed,
            self,
            seed=context.seed,
            epochs=epochs,
            run=context.run,
            validate=(lambda: assess(module, checked, Loss(data.task), context.device)) if len(checked) else None,
        )
        cost = loop.run()
        noise = None
        if data.task == "regression":
            noise = residual_variance(module, checked if len(checked) else data.train, context.device)
        return Network(module.eval(), data.signature, noise, cost.to_json())

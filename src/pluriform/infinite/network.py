"""`InfiniteNetwork`: the form that `InfiniteWidth` gives."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pluriform.axes import Inputs, Logits
from pluriform.data.signature import Signature
from pluriform.infinite.kernel_function import KernelFunction, kernel_of
from pluriform.infinite.latent_variance import latent_variance
from pluriform.infinite.predict.gradient_flow import GradientFlow
from pluriform.infinite.predict.tiled_flow import TiledFlow
from pluriform.infinite.solve import kernel_in
from pluriform.prediction import Prediction, Predictor

if TYPE_CHECKING:
    from pluriform.infinite.fit import InfiniteWidth

__all__ = ["InfiniteNetwork", "Latent"]


@dataclass(frozen=True, eq=False)
class Latent:
    """Ensemble mean `(batch, outputs)` and variance `(batch,)` (empty unless asked for), in units of coded targets."""

    mean: Tensor
    variance: Tensor


class InfiniteNetwork(Predictor):
    """Ensemble of infinitely wide networks, conditioned on training samples that it carries.

    `forward` gives log class probabilities or regression means, differentiable in the inputs; `predict` adds the
    variance of the latent outputs (classification) or of the targets, noise included (regression), and as score minus
    the variance: what lies far from all training samples in the kernel's eyes scores low.

    Args:
        signature: Facts of the data.
        network: Gives the layers; its weights are not used.
        method: The hyper-parameters of the kernel.
        inputs: What new points are compared with: all training inputs, or the inducing ones, `(n, *input_shape)`.
        flow: The solved training dynamics.
        offset: Added to the latent means, `(outputs,)`.
        spread: Unit of the latent means, `(outputs,)`.
    """

    train_inputs: Tensor
    weights: Tensor
    offset: Tensor
    unit: Tensor

    def __init__(
        self,
        signature: Signature,
        network: nn.Module,
        method: "InfiniteWidth",
        inputs: Tensor,
        flow: GradientFlow | TiledFlow,
        offset: Tensor,
        spread: Tensor,
    ) -> None:
        super().__init__(signature)
        self.network = network
        self.method = method
        self.noise, self.scale, self.ridge = 0.0, 1.0, 0.0
        self.weight_var, self.bias_var = float(method.weight_var), float(method.bias_var)
        self.cost: dict[str, float] = {}
        self.register_buffer("train_inputs", inputs.detach().clone())
        self.register_buffer("weights", flow.weights)
        self.latent_variance = latent_variance(flow)
        self.register_buffer("offset", offset)
        self.register_buffer("unit", spread)

    @cached_property
    def kernel(self) -> KernelFunction:
        """Kernels of the network in evaluation mode; traced when first asked for."""
        modes = {module: module.training for module in self.network.modules()}
        try:
            return kernel_of(
                self.network.eval(),
                self.train_inputs[:2],
                weight_var=self.weight_var,
                bias_var=self.bias_var,
                parameterization=self.method.parameterization,
            )
        finally:
            for module, mode in modes.items():
                module.training = mode

    def latent(self, inputs: Inputs, *, variance: bool = False) -> Latent:
        """Mean, and variance where asked for, of the regression outputs."""
        kernel = kernel_in(
            self.method.precision, self.kernel, inputs, self.train_inputs, ntk=self.method.kernel == "ntk"
        )
        cross = kernel.nngp if kernel.ntk is None else kernel.ntk
        mean = cross @ self.weights
        if not variance:
            return Latent(mean, mean.new_empty(0))
        return Latent(mean, self.latent_variance(cross, kernel.nngp, kernel.variance1))

    def forward(self, inputs: Inputs) -> Logits:
        """Log class probabilities, or regression means."""
        return self._outputs(self.latent(inputs).mean).to(inputs.dtype)

    def suited(self, inputs: Inputs) -> Inputs:
        """Inputs where the form's tensors live; kernels are computed in a precision of their own."""
        return inputs.to(self.device)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Mean, variance and score of one batch."""
        latent = self.latent(inputs, variance=True)
        outputs = self._outputs(latent.mean).to(inputs.dtype)
        spread = latent.variance
        total = spread if self.signature.task == "classification" else self.scale * (spread + self.noise)
        variance = total[:, None] * self.unit**2
        return Prediction(self.probabilities(outputs), variance.to(inputs.dtype), score=-spread.to(inputs.dtype))

    def _outputs(self, mean: Tensor) -> Tensor:
        if self.signature.task == "classification":
            return (self.scale * mean).log_softmax(-1)
        return self.offset + self.unit * mean

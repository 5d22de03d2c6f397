"""`MCDropout`: a network trained with dropout, which stays on when it predicts."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pluriform.axes import Inputs
from pluriform.data.data import Data
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.ensemble.fitting import fitted_noise, training_loop
from pluriform.ensemble.layer_inputs import layer_inputs
from pluriform.ensemble.masks import MASKED, MaskSource, dropping, is_dropout, masked_layers
from pluriform.errors import ConfigError, explain
from pluriform.method import FitContext, Method
from pluriform.training.feed import take
from pluriform.training.recipe import Recipe

__all__ = ["MCDropout"]

INSERTED = 0.1  # Rate where the network has no dropout layers and none is asked for.
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class MCDropout(Method):
    """Train with dropout and keep it on: every member is the network under one draw of all its masks.

    p(y | x) = (1 / M) sum_m p(y | x, W, mask_m), masks Bernoulli(1 - rate) / (1 - rate). In training every sample has
    masks of its own, as usual. A member has one mask a layer for all inputs, hence is a network like any other: what it
    predicts for an input depends on no other input, and the same seed gives the same form. Running statistics of
    BatchNorm stay those of the training with dropout.

    Without `rate` it is the network's own dropout layers that stay on, at their rates (`Dropout`, `Dropout1d`, `2d`,
    `3d`; a layer called with several shapes has one mask for each); a network without any gets 0.1 as below.

    With `rate` the network's own are switched off and dropout goes before every linear and convolutional layer but the
    first: features of a linear layer, whole channels of a convolution. A mask is then a set of zero columns of the
    weight, and `form.materialize(i)` a network of the user's own class and keys.

    Dropout that `forward` calls as a function, as attention does, acts in training only, since no layer shows it.

    Args:
        members: Number of draws.
        rate: Share of activations set to zero; `None` for the network's own dropout layers.
        training: How the network is trained; a `Training` serves.

    References:
        Gal, Ghahramani 2016, Dropout as a Bayesian Approximation, arXiv:1506.02142.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> method = pf.MCDropout(members=10, rate=0.2, training=pf.Training(epochs=1))
        >>> method.fit(pf.nets.build("mlp", data), data).predict(data.test.inputs[:3]).members.shape
        torch.Size([10, 3, 10])
    """

    members: int = 30
    rate: float | int | None = None
    training: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if self.members < 1 or not (self.rate is None or 0 <= self.rate < 1):
            got = f"members={self.members}, rate={self.rate}"
            expected = "at least one member, and a rate in [0, 1) or None"
            raise ConfigError(explain(expected, got, "MCDropout", "use rate=0.2 as a start"))

    def _fit(self, module: Any, data: Data, context: FitContext) -> Drawn:
        network = module.to(context.device).eval()
        inputs = take(data.train, torch.arange(min(2, len(data.train))))[0].to(context.device)
        own = {} if self.rate is not None else _own_layers(network)
        if own:
            layers, rate = masked_layers(network, own, inputs), 0.0
            _slow_paths(network)
        else:
            if self.rate is None:
                _check_calls(network, inputs)
            layers, rate = _inner_layers(network, inputs), float(INSERTED if self.rate is None else self.rate)
            _switch_off(network)
        _check(layers, network)
        with nullcontext() if own else dropping(layers, rate):
            epochs = self.training.epochs_for(len(data.train))
            cost = training_loop(network, data, self.training, context, epochs=epochs).run()
        source = MaskSource(layers, rate)
        seeds = draw_seeds(self.members, context.seed)
        form = Drawn(network.eval(), source, seeds, data.signature, norms="shared", cost=cost.to_json()).eval()
        form.noise = fitted_noise(form, data)
        return form


def _own_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Dropout layers that do something, by name."""
    found: dict[str, Any] = {name: layer for name, layer in network.named_modules() if is_dropout(layer)}
    found = {name: layer for name, layer in found.items() if layer.p > 0}
    for name, layer in found.items():
        if type(layer) not in MASKED:
            remedy = "use one of these, or set rate, which switches it off and drops inputs of the layers instead"
            raise ConfigError(
                explain("Dropout, Dropout1d, Dropout2d or Dropout3d", type(layer).__name__, f"layer {name}", remedy)
            )
    return found


def _inner_layers(network: nn.Module, inputs: Inputs) -> dict[str, nn.Module]:
    """Linear and convolutional layers by name, in the order of their calls; not the first, nor any of shared weight."""
    layers: dict[str, Any] = {name: layer for name, layer in network.named_modules() if type(layer) in LAYERS}
    holders = [id(weight) for _, weight in network.named_parameters(remove_duplicate=False)]
    called = list(layer_inputs(network, layers, inputs))
    return {name: layers[name] for name in called[1:] if holders.count(id(layers[name].weight)) == 1}


def _check_calls(network: nn.Module, inputs: Inputs) -> None:
    """Raise `ConfigError` where a network without dropout layers is random in training mode all the same."""
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        outputs = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            outputs.append(copy.deepcopy(network).train()(inputs.repeat(2, *(1 for _ in inputs.shape[1:]))))
    if not torch.equal(*outputs):
        raise ConfigError(
            explain(
                "dropout as layers",
                "outputs that are random in training mode without a dropout layer",
                type(network).__name__,
                "write torch.nn.Dropout layers instead of functional dropout, or set rate, which inserts its own",
            )
        )


def _switch_off(network: nn.Module) -> None:
    for layer in network.modules():
        if is_dropout(layer):
            layer.p = 0.0  # type: ignore[assignment]


def _slow_paths(network: nn.Module) -> None:
    """The fused transformer layer passes over dropout layers in evaluation mode; without this mark it is not taken."""
    for layer in network.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0


def _check(layers: dict[str, nn.Module], network: nn.Module) -> None:
    if not layers:
        raise ConfigError(
            explain(
                "dropout layers, or two linear or convolutional layers of which the second can have dropout before it",
                "none that is called in evaluation mode",
                type(network).__name__,
                "write dropout as torch.nn.Dropout layers, or use Training for a network of one layer",
            )
        )

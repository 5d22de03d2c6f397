"""Taylor expansion of a network in its parameters; of degree one the linearised network."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain
from pluriform.graph.parameters import functional_call, weights_of
from pluriform.infinite.empirical.push_forward import push_forward
from pluriform.infinite.empirical.subject import dependence

__all__ = ["TaylorExpansion", "linearize", "taylor"]


class TaylorExpansion(nn.Module):
    """A network expanded in its parameters around a point, itself a network with parameters that train as usual.

        f_d(theta) = sum_{k=0..d} 1/k! D^k f(theta_0) [theta - theta_0, ..., theta - theta_0]

    Attributes:
        network: Holds theta, the parameters to train; its own outputs are not used.
        origin: Holds theta_0, frozen.
        degree: Of the expansion.

    Args:
        network: Trainable and frozen parameters, buffers and code.
        degree: 0 or more.
        origin: Values of the parameters to expand around, by name; those not named are the network's own.
    """

    def __init__(self, network: nn.Module, degree: int, origin: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        self.degree = degree
        self.origin = copy.deepcopy(network).requires_grad_(False)
        with torch.no_grad():
            for name, tensor in (origin or {}).items():
                weights_of(self.origin)[name].copy_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the expansion, differentiable in theta and in `x`."""
        point = dict(self.origin.named_parameters())
        trained = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        start: dict[str, Tensor] = {name: point[name] for name in trained}
        step = {name: trained[name] - start[name] for name in trained}
        constants = {name: tensor for name, tensor in weights_of(self.origin).items() if name not in trained}

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(self.origin, constants | parameters, (x,))

        term: Callable[[dict[str, Tensor]], Tensor] = outputs
        total = outputs(start)
        for order in range(1, self.degree + 1):
            term = _derivative(term, step)
            total = total + term(start) / math.factorial(order)
        return total


def _derivative(
    function: Callable[[dict[str, Tensor]], Tensor], step: dict[str, Tensor]
) -> Callable[[dict[str, Tensor]], Tensor]:
    """The derivative of a function of the parameters in the direction of the step, again such a function."""
    return lambda parameters: push_forward(function, (parameters,), (step,))[1]


def taylor(module: nn.Module, degree: int, params0: Mapping[str, Tensor] | None = None) -> TaylorExpansion:
    """Expand a network in its trainable parameters.

        f_d(theta) = sum_{k=0..d} 1/k! D^k f(theta_0) [theta - theta_0, ..., theta - theta_0]

    The work doubles with each degree. Piecewise linear activations have no curvature: their second and higher
    derivatives count as zero.

    Args:
        module: Any network in evaluation mode; left unchanged.
        degree: Highest order, 0 or more.
        params0: The point to expand around, by parameter name; by default the module's own parameters.

    Returns:
        A module whose `network` starts at the parameters of `module`.

    Raises:
        ConfigError: A negative degree, a name that the module does not have, or a layer that depends on the batch or on
            chance.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1)
        >>> x = torch.ones(1, 2)
        >>> bool(torch.allclose(taylor(net, 2)(x), net(x)))
        True
    """
    if degree < 0:
        raise ConfigError(explain("a degree of 0 or more", str(degree), "taylor", "1 gives the linearised network"))
    known = weights_of(module)
    for name, tensor in (params0 or {}).items():
        if name not in known or known[name].shape != tensor.shape:
            got = f"{name} of shape {tuple(tensor.shape)}"
            raise ConfigError(
                explain("parameters of the network", got, "params0", "take names and shapes of named_parameters()")
            )
    for name, layer in module.named_modules():
        if reason := dependence(layer):
            raise ConfigError(
                explain("a network in evaluation mode", reason, name or "the network", "call module.eval() first")
            )
    return TaylorExpansion(copy.deepcopy(module), degree, params0)


def linearize(module: nn.Module, params0: Mapping[str, Tensor] | None = None) -> TaylorExpansion:
    """The network as a linear function of its parameters.

        f_lin(theta) = f(theta_0) + J(theta_0) (theta - theta_0)

    Its kernel is the empirical NTK at `theta_0`, and stays so during training.

    Args:
        module: Any network in evaluation mode; left unchanged.
        params0: The point to linearise at, by parameter name; by default the module's own parameters.

    Returns:
        A module whose `network` holds the parameters to train, at first those of `module`.

    References:
        Lee, Xiao, et al. 2019, Wide Neural Networks of Any Depth Evolve as Linear Models, arXiv:1902.06720.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> flat = linearize(net)
        >>> optimiser = torch.optim.SGD(flat.parameters(), 0.1)
        >>> bool(torch.allclose(flat(torch.ones(1, 2)), net(torch.ones(1, 2))))
        True
    """
    return taylor(module, 1, params0)

"""Monte-Carlo kernels: means of empirical kernels over random networks of the user's module, widened."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pluriform.axes import Gram
from pluriform.errors import ConfigError, explain
from pluriform.infinite.empirical.contraction import contract
from pluriform.infinite.empirical.redraw import RandomNetwork, random_network
from pluriform.infinite.empirical.structured import StructuredDerivatives
from pluriform.infinite.empirical.subject import subject_of

__all__ = ["MonteCarloKernel", "monte_carlo_kernel", "monte_carlo_kernels"]


@dataclass(frozen=True, eq=False)
class MonteCarloKernel:
    """Means over random networks, with their standard errors.

    Attributes:
        nngp: `(n1, n2)`.
        ntk: `(n1, n2)`, or `None` where it was not asked for.
        nngp_error: Standard error of every entry of `nngp`; infinite after a single draw.
        ntk_error: The same of `ntk`.
        draws: Networks.
    """

    nngp: Gram
    ntk: Gram | None
    nngp_error: Gram
    ntk_error: Gram | None
    draws: int


def monte_carlo_kernel(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    width: float | int = 1,
    draws: int = 100,
    seed: int = 0,
    weight_var: float | int = 2.0,
    bias_var: float | int = 0.0,
    overrides: Mapping[str, tuple[float | int, float | int]] | None = None,
    parameterization: str = "ntk",
    ntk: bool = True,
) -> MonteCarloKernel:
    """NNGP and NTK of a module as means over random networks, for any operation that runs.

    The networks are copies of the module with `width` times its hidden channels and weights drawn as `kernel_of`
    assumes them, to whose closed form the means converge: the error of a mean over S networks of width w is of the
    order `1 / sqrt(w S)`, its bias of the order `1 / w`.

    The NNGP is the covariance of outputs given the network below the last layer, exact in the weights of that layer;
    where something other than linear operations follows the last layer, it is the product of outputs.

    Args:
        module: Any network from `(n, *input_shape)` to `(n, outputs)`, in evaluation mode; its weights are not used.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        width: Hidden channels, in multiples of the module's own.
        draws: Networks, at least 1.
        seed: Of all draws.
        weight_var: Variance of a weight times the fan-in, for every layer.
        bias_var: Variance of a bias, for every layer.
        overrides: `(weight_var, bias_var)` of single layers by dotted module path.
        parameterization: `"ntk"`, or `"standard"` at the widths of the module.
        ntk: `False` leaves the NTK out, and with it the backward passes.

    Raises:
        ConfigError: An option is out of its range, or the module depends on the batch or on chance.
        UnsupportedOpError: A parameter is used at several places, or by an operation without a rule here.
        GraphError: The module cannot be widened.

    Example:
        >>> from pluriform.infinite import kernel_of
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> sampled = monte_carlo_kernel(net, torch.eye(3), width=16, draws=50)
        >>> exact = kernel_of(net, torch.eye(3))(torch.eye(3))
        >>> bool((sampled.ntk - exact.ntk).norm() < 0.05 * exact.ntk.norm())
        True
    """
    *_, last = monte_carlo_kernels(
        module,
        x1,
        x2,
        counts=(draws,),
        width=width,
        seed=seed,
        weight_var=weight_var,
        bias_var=bias_var,
        overrides=overrides,
        parameterization=parameterization,
        ntk=ntk,
    )
    return last


def monte_carlo_kernels(
    module: nn.Module,
    x1: Float[Tensor, "n1 *features1"],
    x2: Float[Tensor, "n2 *features2"] | None = None,
    *,
    counts: Sequence[int],
    width: float | int = 1,
    seed: int = 0,
    weight_var: float | int = 2.0,
    bias_var: float | int = 0.0,
    overrides: Mapping[str, tuple[float | int, float | int]] | None = None,
    parameterization: str = "ntk",
    ntk: bool = True,
) -> Iterator[MonteCarloKernel]:
    """Running means: `monte_carlo_kernel` after each of the given numbers of draws, of one growing sample.

    Args:
        module: As for `monte_carlo_kernel`, like all that is not named here.
        x1: First inputs.
        x2: Second inputs; `None` takes the first.
        counts: Numbers of draws, increasing.
        width: Hidden channels, in multiples of the module's own.
        seed: Of all draws.
        weight_var: Variance of a weight times the fan-in.
        bias_var: Variance of a bias.
        overrides: Variances of single layers.
        parameterization: `"ntk"` or `"standard"`.
        ntk: Whether to compute the NTK.

    Yields:
        One record for each number of draws.
    """
    _check(counts, parameterization)
    network = random_network(
        module,
        x1,
        width=width,
        weight_var=weight_var,
        bias_var=bias_var,
        overrides=overrides or {},
        parameterization=parameterization,
    )
    generator = torch.Generator(device=x1.device).manual_seed(seed)
    sampler = _Sampler(network, x1, x2, ntk)
    nngp, tangent = _Mean(), _Mean()
    for draw in range(1, max(counts) + 1):
        network.draw(generator)
        sample = sampler()
        nngp.add(sample.nngp)
        if sample.ntk is not None:
            tangent.add(sample.ntk)
        if draw in counts:
            yield MonteCarloKernel(
                nngp.mean, tangent.mean if ntk else None, nngp.error, tangent.error if ntk else None, draw
            )


def _check(counts: Sequence[int], parameterization: str) -> None:
    if not counts or min(counts) < 1 or list(counts) != sorted(set(counts)):
        raise ConfigError(
            explain("increasing numbers of draws, at least 1", f"{tuple(counts)}", "monte_carlo_kernel", "draw more")
        )
    if parameterization not in ("ntk", "standard"):
        raise ConfigError(
            explain("parameterization 'ntk' or 'standard'", repr(parameterization), "monte_carlo_kernel", "choose one")
        )


class _Mean:
    """Running mean and sum of squared deviations (Welford), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, value: Tensor) -> None:
        self.count += 1
        delta = value.double() - self.mean
        self.mean = self.mean + delta / self.count
        self.squares = self.squares + delta * (value.double() - self.mean)

    @property
    def error(self) -> Tensor:
        if self.count == 1:
            return torch.full_like(self.mean, torch.inf)
        return (self.squares / (self.count - 1) / self.count).sqrt()


@dataclass(frozen=True, eq=False)
class _Sample:
    nngp: Tensor
    ntk: Tensor | None


class _Sampler:
    """Both kernels of the network as it stands."""

    def __init__(self, network: RandomNetwork, x1: Tensor, x2: Tensor | None, ntk: bool) -> None:
        self.head = network.head
        self.rates = {name: rate for name, rate in network.rates.items() if ntk and rate}
        for name, parameter in network.module.named_parameters():
            parameter.requires_grad_(name in self.rates or name in self.head)
        weight = next(network.module.parameters())
        self.x1 = x1.to(weight.dtype)
        self.x2 = None if x2 is None else x2.to(weight.dtype)
        self.subject = subject_of(network.module, self.x1, needs_parameters=False)
        self.subject.check_inputs(self.x1, self.x2)
        self.method = StructuredDerivatives(self.subject, "trace")
        self.ntk = ntk

    def __call__(self) -> _Sample:
        nngp, ntk = torch.zeros(()), torch.zeros(())
        if self.method.layers:
            first = self.method.prepare(self.x1)
            second = first if self.x2 is None else self.method.prepare(self.x2)
            for output in range(self.subject.outputs):
                left = self.method.side(first, slice(output, output + 1))
                right = left if self.x2 is None else self.method.side(second, slice(output, output + 1))
                for name, part in self.method.parts(left, right):
                    nngp = nngp + self.head.get(name, 0.0) * part.double()
                    ntk = ntk + self.rates.get(name, 0.0) * part.double()
        if not self.head:
            outputs = self.subject.at(self.x1)[..., None].double()
            nngp = contract(
                outputs, outputs if self.x2 is None else self.subject.at(self.x2)[..., None].double(), "trace"
            )
        return _Sample(nngp / self.subject.outputs, ntk / self.subject.outputs if self.ntk else None)

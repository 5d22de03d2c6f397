"""Drawing all weights of a network anew."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, explain

__all__ = ["reinitialise"]

MARK = 0.7310585786


def reinitialise(network: nn.Module, seed: int) -> None:
    """Call `reset_parameters` of every submodule, children first and each module last, with draws from `seed`.

    So the initialisation is that of the layers' classes, unless a module of the user has a `reset_parameters` of its
    own, which then has the last word over everything below it. Trainable parameters that no such method reaches (a
    position embedding, the factors of a weight norm) are drawn from a normal distribution with the mean and deviation
    of their values; constant and frozen ones keep theirs.

    Args:
        network: Changed in place.
        seed: Source of the draws; torch's own generators stay as they are.

    Raises:
        ConfigError: No submodule can draw its parameters anew.
    """
    resets = [reset for module in _children_first(network) if (reset := _reset_of(module)) is not None]
    if not resets:
        raise ConfigError(
            explain(
                "a network with at least one submodule that has reset_parameters()",
                type(network).__name__,
                "new initial weights",
                "give its class a reset_parameters method",
            )
        )
    devices = sorted({tensor.device.index or 0 for tensor in network.parameters() if tensor.device.type == "cuda"})
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    given = [parameter.detach().clone() for parameter in trained]
    frozen = [(parameter, parameter.clone()) for parameter in network.parameters() if not parameter.requires_grad]
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        marked = [parameter.add_(MARK).clone() for parameter in trained]  # What keeps the mark was not reached.
        for reset in resets:
            reset()
        for parameter, value in frozen:  # Those beside trained ones in a layer.
            parameter.copy_(value)
        for parameter, mark, value in zip(trained, marked, given, strict=True):
            if torch.equal(parameter, mark):
                _draw_alike(parameter, value)


def _draw_alike(parameter: nn.Parameter, given: Tensor) -> None:
    deviation = float(given.std()) if given.numel() > 1 else 0.0
    if deviation > 0:
        parameter.normal_(float(given.mean()), deviation)
    else:
        parameter.copy_(given)


def _children_first(module: nn.Module, seen: set[nn.Module] | None = None) -> list[nn.Module]:
    seen = set() if seen is None else seen
    if module in seen:
        return []
    seen.add(module)
    return [*(deep for child in module.children() for deep in _children_first(child, seen)), module]


def _reset_of(module: nn.Module) -> Callable[[], None] | None:
    """The module's own method, also under the name that attention gives it; `None` where its weights are frozen."""
    own = list(module.parameters())
    if own and not any(parameter.requires_grad for parameter in own):
        return None
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)

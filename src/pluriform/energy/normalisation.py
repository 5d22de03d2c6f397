"""What becomes of BatchNorm in a network that is sampled from, and of nonlinearities with kinks."""

import copy
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pluriform.errors import ConfigError, explain

__all__ = ["Policy", "eval_parts", "prepared"]

Policy = Literal["refuse", "freeze", "group", "train"]
GROUPS = 8
KINKED = (nn.ReLU, nn.LeakyReLU, nn.ReLU6)


def prepared(network: nn.Module, policy: Policy, smooth: bool) -> nn.Module:
    """The network as it will be trained: a copy where anything is exchanged, else itself.

    Args:
        network: The user's.
        policy: `refuse` raises where there is BatchNorm; `freeze` keeps its statistics as they are, for a network that
            has been trained; `group` puts GroupNorm in its place; `train` uses statistics of each batch, which holds
            together only with chains that start near the data.
        smooth: Put SiLU in the place of ReLU modules.

    Raises:
        ConfigError: BatchNorm, and the policy refuses it, or there are no statistics to freeze.
    """
    found = [name for name, part in network.named_modules() if isinstance(part, _BatchNorm)]
    if found and policy == "refuse":
        raise ConfigError(
            explain(
                "a network without BatchNorm: data, chains and noise have different batch statistics",
                f"BatchNorm at {', '.join(found[:3])}" + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
                type(network).__name__,
                "choose normalisation='group' (GroupNorm in its place), 'freeze' (a trained network, statistics as "
                "they are), or 'train' (batch statistics, with start='gaussian')",
            )
        )
    if policy == "freeze":
        _check_statistics(network)
    changed, exchange = copy.deepcopy(network), {}
    for name, part in list(changed.named_modules(remove_duplicate=False)):  # A module may serve at several places.
        if part not in exchange and policy == "group" and isinstance(part, _BatchNorm):
            exchange[part] = _group_norm(part)
        elif part not in exchange and smooth and isinstance(part, KINKED):
            exchange[part] = nn.SiLU()
        if part in exchange and not name:
            return exchange[part]
        if part in exchange:
            changed.set_submodule(name, exchange[part])
    return changed if exchange else network


def _check_statistics(network: nn.Module) -> None:
    for name, part in network.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            got, remedy = f"BatchNorm at {name} without any", "choose normalisation='group' or 'train'"
            raise ConfigError(explain("running statistics to freeze", got, type(network).__name__, remedy))


def _group_norm(norm: _BatchNorm) -> nn.GroupNorm:
    """GroupNorm of the same channels, scale and shift."""
    channels = norm.num_features
    most = 1 if isinstance(norm, nn.BatchNorm1d) else GROUPS  # A feature by itself would always become zero.
    groups = next(count for count in range(min(most, channels), 0, -1) if channels % count == 0)
    new = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        new.to(norm.weight)
        new.load_state_dict({name: getattr(norm, name).detach() for name in ("weight", "bias")})
        new.weight.requires_grad_(norm.weight.requires_grad)
        new.bias.requires_grad_(norm.bias.requires_grad)
    return new


def eval_parts(network: nn.Module, policy: Policy) -> list[nn.Module]:
    """Parts that stay in evaluation mode through the training."""
    return [part for part in network.modules() if policy == "freeze" and isinstance(part, _BatchNorm)]

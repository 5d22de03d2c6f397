"""The optimiser of a recipe, gradient clipping and the arithmetic of the forward pass."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from pluriform.errors import ConfigError, explain
from pluriform.training.recipe import Recipe

__all__ = ["autocast_of", "clip_gradients", "make_optimizer"]

MOMENTUM = 0.9


def make_optimizer(network: nn.Module, recipe: Recipe, factors: Mapping[str, float] | None = None) -> Optimizer:
    """The optimiser over the trainable parameters, as one fused kernel where torch has one.

    Args:
        network: What is trained.
        recipe: Names optimiser, rate and decay.
        factors: Of the learning rate, by dotted path of a submodule; groups of parameters then have a `factor`.

    Raises:
        ConfigError: The network has no trainable parameters.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            found = [factor for path, factor in (factors or {}).items() if f"{name}.".startswith(f"{path}.")]
            groups.setdefault(float((found or [1.0])[0]), []).append(parameter)
    if not groups:
        raise ConfigError(
            explain("a network with trainable parameters", "none", type(network).__name__, "set requires_grad")
        )
    parameters = [{"params": own, "factor": factor} for factor, own in groups.items()]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for own in groups.values() for p in own)
    rate, decay = float(recipe.learning_rate), float(recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=decay, fused=fused)
    return AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], norm: float, members: int | None = None) -> None:
    """Scale gradients down to an L2 norm of at most `norm`; for stacked members, each member's by itself."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if members is None:
        nn.utils.clip_grads_with_norm_(
            [p for p in parameters if p.grad is not None], norm, nn.utils.get_total_norm(gradients)
        )
        return
    squared = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    scale = (norm / (squared.sqrt() + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


def autocast_of(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager]:
    """Context of the forward pass: Lightning Fabric's for a lower precision, nothing for float32."""
    if recipe.precision == "32":
        return nullcontext
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=1, precision="bf16-mixed")
    return fabric.autocast

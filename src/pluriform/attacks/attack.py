"""`attack`: perturbed inputs by any attack, checked against the threat."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pluriform.attacks.auto_attack import auto_attack
from pluriform.attacks.perturb import AUTO_ATTACK, check_options, labelled, module_of, perturb
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.axes import Inputs
from pluriform.freed_memory import keep_freed_memory

__all__ = ["attack"]


def attack(
    form: nn.Module | Callable[[Tensor], Tensor],
    x: Inputs,
    y: Tensor,
    threat: Threat,
    method: str = "pgd",
    seed: int = 0,
    **options: Any,
) -> Inputs:
    """Inputs inside the threat that the form gets wrong, as far as the attack finds them.

    The form is judged in evaluation mode; its weights, their gradients, its buffers and the mode of every submodule
    stay as they are. A sample's perturbation does not depend on the other samples of the batch.

    Args:
        form: A form, or any module or differentiable function that gives logits; the modules that a function calls
            stay in the mode they are in.
        x: Inputs inside the bounds, shape `(batch, *input_shape)`.
        y: True classes, integers of shape `(batch,)`.
        threat: Norm and radius, and the bounds where the form carries none.
        method: A name in `ATTACKS`, for instance `"pgd"`, `"apgd-t"`, `"fab-t"`, `"square"`, or `"autoattack"`, the
            worst case of all that `auto_attack` runs.
        seed: Source of all random numbers.
        options: Passed to the attack, for instance `steps=50, restarts=3`; of AutoAttack, `suite` and `batch_size`.

    Returns:
        Perturbed inputs; `x` itself, copied, where eps is 0.

    Raises:
        ConfigError: Unknown attack or option, or a radius in the wrong scale.
        BoundsError: Bounds unknown, or left by the inputs.
        ShapeError: Inputs and labels differ in number or are none, or the form does not take them or gives no logits.
        LabelError: Labels outside the classes.
        NonFiniteError: The form gives NaN or infinity.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
        >>> bool((attack(net, x, y, Threat("linf", 0.1, (0, 1))) - x).abs().max() <= 0.1 + 1e-6)
        True
    """
    if method == AUTO_ATTACK:
        check_options(method, options, ("suite", "batch_size"))
        return auto_attack(form, x, y, threat, seed=seed, **options).inputs
    form = module_of(form)
    x, y = labelled(form, x, y, "attack")
    threat = resolve_threat(form, threat, x)
    check_scale(threat, x[0].numel())
    with keep_freed_memory():
        return perturb(form, x, y, threat, method, seed, **options)

"""`minimal_distances`: how far the nearest misclassified point of every input is, whatever the radius."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pluriform.attacks.fab import Nearest, Walk, nearest
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.perturb import BATCH, labelled, module_of
from pluriform.attacks.threat import Threat, resolve_threat
from pluriform.axes import Inputs
from pluriform.errors import ConfigError, explain
from pluriform.prediction import Predictor

__all__ = ["minimal_distances"]


def minimal_distances(
    form: nn.Module | Callable[[Tensor], Tensor],
    x: Inputs,
    y: Tensor,
    norm: str = "linf",
    bounds: tuple[float | int, float | int] | None = None,
    *,
    targets: int | None = 9,
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
) -> Nearest:
    """The nearest misclassified points that FAB finds, and their distances: upper bounds of the true minimal ones.

    A sample is robust against every radius below its true distance, so that one call gives the whole curve of robust
    accuracy over eps, as far as this attack reaches. The way from the input to its nearest point is halved 10 times at
    the end.

    Args:
        form: A form, or any module or differentiable function that gives logits.
        x: Inputs inside the bounds.
        y: True classes, integers of shape `(batch,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        bounds: Lowest and highest legal input value; those of the form unless given.
        targets: Wrong classes to walk to, the likeliest first; None for untargeted walks, which cost K - 1 gradients a
            step for K classes.
        steps: Linearisations of a walk.
        restarts: Walks towards each target; all but the first start at random.
        seed: Of the random starts.

    Returns:
        Points and distances: 0 where the input is misclassified already, infinite where no point was found.

    Raises:
        ConfigError: Unknown norm or impossible options.
        BoundsError: Bounds unknown, or left by the inputs.
        ShapeError: Inputs and labels differ in number or are none, or the form does not take them or gives no logits.
        LabelError: Labels outside the classes.
        NonFiniteError: The form gives NaN or infinity.

    References:
        Croce, Hein, 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack,
        arXiv 1907.02044.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> _ = net.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
        >>> found = minimal_distances(net, torch.tensor([[0.7, 0.1]]), torch.tensor([0]), "linf", (0, 1))
        >>> round(found.distances.item(), 2)
        0.3
    """
    form = module_of(form)
    x, y = labelled(form, x, y, "minimal_distances")
    if targets is not None and targets < 1:
        raise ConfigError(explain("targets >= 1, or None", f"{targets}", "minimal_distances", "the usual value is 9"))
    threat = resolve_threat(form, Threat(norm, 0, bounds), x)
    walk = Walk(steps, restarts, halvings=10)
    whole = Threat(norm, _diameter(threat, math.prod(x.shape[1:])), threat.bounds)
    tensor = next(form.parameters(), next(form.buffers(), x))
    size = form.batch_size if isinstance(form, Predictor) else BATCH
    with attack_mode(form):
        parts = [
            nearest(form, inputs.to(tensor.device), labels.to(tensor.device), whole, walk, targets, seed)
            for inputs, labels in zip(x.split(size), y.split(size), strict=True)
        ]
    points = torch.cat([part.points for part in parts]).to(x.device)
    return Nearest(points, torch.cat([part.distances for part in parts]).to(x.device))


def _diameter(threat: Threat, values: int) -> float:
    low, high = threat.box
    return (high - low) * {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}[threat.norm]

"""The fast adaptive boundary attack: walk along the decision boundary to the misclassified point nearest the input."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pluriform.attacks.gradient import no_gradient
from pluriform.attacks.hyperplane import shortest_step
from pluriform.attacks.noise import gaussian, uniform
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels, Logits, Scores
from pluriform.errors import ConfigError, explain

__all__ = ["Nearest", "Walk", "fab", "fab_targeted", "nearest"]

Classes = Int[Tensor, "batch others"]
FLOOR = 1e-8
ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}
DUALS = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest misclassified points that were found.

    Attributes:
        points: The inputs themselves where none was found, or where they are misclassified already.
        distances: In the threat's norm; infinite where none was found.
    """

    points: Inputs
    distances: Scores


@dataclass(frozen=True)
class Walk:
    """How FAB walks.

    Attributes:
        steps: Linearisations of a run.
        restarts: Runs; all but the first start at random.
        bias: Largest pull of a step towards the input's own projection, alpha_max.
        overshoot: How far steps go beyond the linearised boundary, eta.
        backward: Fraction of the distance to the input that is kept when a misclassified point is found, beta.
        halvings: Of the way from the input to the nearest point, at the very end; the runs alone leave a distance half
            a percent too long.

    Raises:
        ConfigError: Impossible values.
    """

    steps: int = 100
    restarts: int = 1
    bias: float | int = 0.1
    overshoot: float | int = 1.05
    backward: float | int = 0.9
    halvings: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1 or self.halvings < 0:
            got = f"steps {self.steps}, restarts {self.restarts}, halvings {self.halvings}"
            raise ConfigError(explain("steps >= 0, restarts >= 1 and halvings >= 0", got, "fab", "raise them"))
        if not (0 <= self.bias <= 1 and self.overshoot >= 1 and 0 < self.backward < 1):
            got = f"bias {self.bias}, overshoot {self.overshoot}, backward {self.backward}"
            expected = "bias in 0..1, overshoot >= 1 and backward between 0 and 1"
            raise ConfigError(explain(expected, got, "fab", "the published values are 0.1, 1.05 and 0.9"))


def fab(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    stop_when_broken: bool = True,
) -> Inputs:
    """Untargeted FAB: steps onto the nearest of the linearised boundaries to all other classes.

    A step costs two forwards and K - 1 input gradients for K classes; `fab_targeted` does with one.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds; linf, l2 or l1.
        seed: Of the random starts of further restarts.
        steps: Linearisations of a run.
        restarts: Runs; a sample keeps the nearest misclassified point of all.
        stop_when_broken: Leave a sample at its first misclassified point inside the threat. Otherwise all steps are
            made and the nearest point is returned. The samples broken are the same.

    Returns:
        Misclassified points inside the threat; the inputs where none was found.

    Raises:
        ConfigError: Negative steps, or fewer than one restart.

    References:
        Croce, Hein, 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack,
        arXiv 1907.02044.
    """
    walk = Walk(steps, restarts)
    return _inside(nearest(module, inputs, labels, threat, walk, None, seed, stop_when_broken), inputs, threat)


def fab_targeted(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    stop_when_broken: bool = True,
) -> Inputs:
    """Targeted FAB: a run towards each of the wrong classes that the network finds most likely for the clean input.

    A step costs two forwards and one input gradient, whatever the number of classes.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds; linf, l2 or l1.
        seed: Of the random starts of further restarts.
        steps: Linearisations of a run.
        restarts: Runs towards each target.
        targets: Wrong classes, at most as many as there are.
        stop_when_broken: As in `fab`.

    Returns:
        Misclassified points inside the threat; the inputs where none was found.

    Raises:
        ConfigError: Negative steps, or fewer than one restart or target.

    References:
        Croce, Hein, 2020, arXiv 1907.02044, and Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks, arXiv 2003.01690.
    """
    if targets < 1:
        raise ConfigError(explain("targets >= 1", f"{targets}", "fab-t", "the published value is 9"))
    walk = Walk(steps, restarts)
    return _inside(nearest(module, inputs, labels, threat, walk, targets, seed, stop_when_broken), inputs, threat)


def nearest(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    walk: Walk,
    targets: int | None,
    seed: int = 0,
    stop_when_broken: bool = False,
) -> Nearest:
    """The nearest misclassified points, at any distance.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: Its radius limits the random starts, and ends the search of a sample when `stop_when_broken`.
        walk: Steps and restarts.
        targets: Number of targeted runs; one untargeted run when None.
        seed: Of the random starts.
        stop_when_broken: Look no further once a point inside the threat is found.
    """
    search = _Search(module, inputs, labels, threat, walk, seed, threat.eps if stop_when_broken else 0.0)
    others = _wrong_classes(search.logits, labels, targets)
    if walk.steps == 0:
        return Nearest(search.points, search.distances)
    runs = others.split(1, 1) if targets is not None else [others]
    for restart in range(walk.restarts):
        for number, classes in enumerate(runs):
            search.run(classes, restart, restart * len(runs) + number)
    search.shorten()
    return Nearest(search.points, search.distances)


def _inside(found: Nearest, inputs: Inputs, threat: Threat) -> Inputs:
    return torch.where(_wide(found.distances <= threat.eps, inputs), found.points, inputs)


def _wrong_classes(logits: Logits, labels: Labels, targets: int | None) -> Classes:
    """The other classes of every sample, the likeliest first."""
    others = logits.shape[1] - 1
    if others < 1:
        raise ConfigError(explain("at least 2 classes", f"{others + 1}", "fab", "give the network an output for each"))
    ranked = logits.scatter(1, labels[:, None], -torch.inf).argsort(stable=True, dim=1, descending=True)
    return ranked[:, : min(targets or others, others)]


class _Search:
    """The nearest points so far, and the runs that look for nearer ones."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Inputs,
        labels: Labels,
        threat: Threat,
        walk: Walk,
        seed: int,
        enough: float | int,
    ) -> None:
        self.module, self.inputs, self.labels, self.threat = module, inputs, labels, threat
        self.walk, self.seed, self.enough = walk, seed, enough
        with torch.no_grad():
            self.logits = module(inputs)
        self.points = inputs.clone()
        self.distances = torch.full_like(inputs.flatten(1)[:, 0], torch.inf)
        self.distances[self.logits.argmax(1) != labels] = 0

    def run(self, others: Classes, restart: int, stream: int) -> None:
        """One walk of all samples that are not near enough, towards `others`."""
        rows = (self.distances > self.enough).nonzero().squeeze(1)
        points = self._start(rows, restart, stream)
        for _ in range(self.walk.steps):
            if len(rows) == 0:
                return
            clean, labels = self.inputs[rows], self.labels[rows]
            points = self._advance(points, clean, labels, others[rows])
            with torch.no_grad():
                broken = self.module(points).argmax(1) != labels
            self._learn(rows, points, broken)
            pulled = clean + self.walk.backward * (points - clean)
            points = torch.where(_wide(broken, points), pulled, points)
            if self.enough > 0:
                rows, points = _keep(self.distances[rows] > self.enough, rows, points)

    def shorten(self) -> None:
        """Halve the way from each input to its nearest point, and keep the half that ends misclassified."""
        rows = ((self.distances > self.enough) & self.distances.isfinite()).nonzero().squeeze(1)
        clean, far = self.inputs[rows], self.points[rows]
        right, wrong = torch.zeros_like(self.distances[rows]), torch.ones_like(self.distances[rows])
        for _ in range(self.walk.halvings if len(rows) else 0):
            middle = (right + wrong) / 2
            points = torch.lerp(clean, far, _wide(middle, clean))
            with torch.no_grad():
                broken = self.module(points).argmax(1) != self.labels[rows]
            self._learn(rows, points, broken)
            right, wrong = torch.where(broken, right, middle), torch.where(broken, middle, wrong)

    def _start(self, rows: Tensor, restart: int, stream: int) -> Inputs:
        """The inputs; in later restarts, a random point at half the radius or half the distance known."""
        clean = self.inputs[rows]
        if restart == 0:
            return clean
        linf = self.threat.norm == "linf"
        noise = 2 * uniform(clean, self.seed, stream) - 1 if linf else gaussian(clean, self.seed, stream)
        radius = 0.5 * self.distances[rows].clamp_max(float(self.threat.eps))
        step = _wide(radius / _length(noise, ORDERS[self.threat.norm]).clamp_min(FLOOR), clean) * noise
        return (clean + step).clamp(*self.threat.box)

    def _advance(self, points: Inputs, clean: Inputs, labels: Labels, others: Classes) -> Inputs:
        """`(1 - m) (x_i + eta d_1) + m (x + eta d_2)` with the steps onto the boundary from point and input."""
        lead, normals = _boundary(self.module, points, labels, others, DUALS[self.threat.norm])
        at, origin = points.flatten(1), clean.flatten(1)
        gaps = torch.cat([-lead, torch.linalg.vecdot(normals, at - origin) - lead])
        steps = shortest_step(torch.cat([at, origin]), normals.repeat(2, 1), gaps, self.threat.norm, self.threat.box)
        near, far = _length(steps, ORDERS[self.threat.norm]).clamp_min(FLOOR).chunk(2)
        bias = (near / (near + far)).clamp_max(self.walk.bias)[:, None]
        step, pull = steps.mul_(self.walk.overshoot).chunk(2)
        return torch.lerp(at + step, origin + pull, bias).clamp(*self.threat.box).view_as(points)

    def _learn(self, rows: Tensor, points: Inputs, broken: Tensor) -> None:
        length = _length(points - self.inputs[rows], ORDERS[self.threat.norm])
        better = broken & (length < self.distances[rows])
        self.points[rows[better]] = points[better]
        self.distances[rows[better]] = length[better]


def _boundary(module: nn.Module, points: Inputs, labels: Labels, others: Classes, dual: float) -> tuple[Scores, Tensor]:
    """`h = z_t - z_y` and its gradient, flat, for the class `t` of `others` whose linearised boundary is nearest.

    Raises:
        UnsupportedOpError: The outputs do not depend differentiably on the inputs.
    """
    with torch.enable_grad():
        point = points.detach().requires_grad_()
        logits = module(point)
        leads = logits.gather(1, others) - logits.gather(1, labels[:, None])
        if not leads.requires_grad:
            raise no_gradient(module)
        last = others.shape[1] - 1
        gradients = [
            torch.autograd.grad(leads[:, k].sum(), point, retain_graph=k < last, allow_unused=True)[0]
            for k in range(last + 1)
        ]
    if any(gradient is None for gradient in gradients):
        raise no_gradient(module)
    leads, flat = leads.detach().to(points.dtype), [gradient.nan_to_num().flatten(1) for gradient in gradients]
    if last == 0:
        return leads[:, 0], flat[0]
    normals = torch.stack(flat, 1)
    distances = leads.abs() / torch.linalg.vector_norm(normals, dual, 2).clamp_min(1e-12)
    best = distances.argmin(1, keepdim=True)
    return leads.gather(1, best)[:, 0], normals.take_along_dim(best[:, :, None], 1)[:, 0]


def _keep(wanted: Tensor, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    return (rows, points) if bool(wanted.all()) else (rows[wanted], points[wanted])


def _length(change: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(change.flatten(1), order, 1)


def _wide(row: Tensor, like: Tensor) -> Tensor:
    return row.view(-1, *[1] * (like.ndim - 1))

"""Pictures of test samples under attack: as they are, attacked, the change, and the input gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pluriform.attacks.gradient import ascend, attack_mode
from pluriform.attacks.perturb import perturb
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.evaluation.findings import Findings
from pluriform.evaluation.pictures import byte_size, pictured, pngs
from pluriform.evaluation.robustness import PGD_STEPS
from pluriform.evaluation.subject import Subject
from pluriform.result import Pictures

__all__ = ["SHOWN", "measure_adversarial"]

SHOWN = 8
SHOWN_LARGE = 6  # Of pictures of which a result holds few.
SMALL = 1024  # Bytes of a picture of which it holds many.
SPREADS = 3  # Root mean squares of an input gradient at black and at white.


@dataclass(frozen=True, eq=False)
class _Attacked:
    """Test samples, what became of them, and what the form says before and after.

    Attributes:
        index: Places in the test split.
        labels: True classes.
        clean: Inputs.
        moved: The same, attacked.
        gradient: Of the cross-entropy at the clean inputs, nats per unit of input.
    """

    index: Tensor
    labels: Tensor
    clean: Tensor
    moved: Tensor
    gradient: Tensor


def measure_adversarial(subject: Subject, threats: Sequence[Threat]) -> Findings:
    """Pictures `clean`, `attacked`, `perturbation` and `input_gradient` of a few test samples, one after the other.

    Shown are the first correctly classified test samples of each class, in a seeded order and without any other
    selection. PGD climbs to the highest loss within the threat. The change is magnified so that its largest value, over
    all samples, is black or white; each input gradient so that three times its root mean square is. Grey is zero in
    both. Inputs that are no images of one or three channels have no findings.

    Args:
        subject: The form and its answers.
        threats: The first in the maximum norm is taken, or the first where there is none.

    Raises:
        ConfigError: A radius in the wrong scale.

    References:
        Tsipras, Santurkar, Engstrom, Turner, Madry, 2019, Robustness may be at odds with accuracy, arXiv 1805.12152
        (input gradients of robust networks).
    """
    threat = next((found for found in threats if found.norm == "linf"), next(iter(threats), None))
    if threat is None or threat.eps == 0 or not pictured(subject.data.input_shape):
        return Findings()
    if subject.data.bounds is None and threat.bounds is None:
        return _skipped(f"{subject.data.name} has no bounds, which a threat needs")
    index = _chosen(subject)
    if len(index) == 0:
        return _skipped("no test sample is classified correctly")
    inputs, labels = subject.data.test.batch(index)
    inputs, labels = inputs.cpu(), labels.cpu()
    threat = resolve_threat(subject.form, threat, inputs)
    check_scale(threat, inputs[0].numel())
    try:
        found = _attacked(subject, index, inputs, labels, threat)
    except NotImplementedError as error:
        return _skipped(str(error) or f"{type(subject.form).__name__} has no differentiable forward")
    return _told(subject, found, threat)


def _chosen(subject: Subject) -> Tensor:
    """Of each class, or of as many as there is room for, the first correctly classified samples in a seeded order."""
    targets = subject.test.targets
    most = SHOWN if byte_size(subject.data.input_shape) <= SMALL else SHOWN_LARGE
    right = subject.test.prediction.mean.argmax(-1) == targets
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(subject.seed))
    order = order[right[order]]
    present = targets[order].unique()
    if len(present) > most:
        present = present[torch.linspace(0, len(present) - 1, most).long()]
    each = most // max(1, len(present))
    return torch.cat([order[:0], *(order[targets[order] == label][:each] for label in present)])


def _attacked(subject: Subject, index: Tensor, inputs: Tensor, labels: Tensor, threat: Threat) -> _Attacked:
    form = subject.form
    options = {"steps": PGD_STEPS, "stop_when_broken": False}
    moved = perturb(form, inputs, labels, threat, "pgd", subject.seed, **options).cpu()
    with attack_mode(form):
        gradient = ascend(form, inputs.to(form.device), labels.to(form.device)).gradient.cpu()
    return _Attacked(index, labels, inputs, moved, gradient)


def _told(subject: Subject, found: _Attacked, threat: Threat) -> Findings:
    low, high = threat.box
    change = found.moved - found.clean
    largest = float(change.abs().max())
    factor = (high - low) / 2 / largest if largest else 1.0
    steep = SPREADS * found.gradient.double().square().flatten(1).mean(1).sqrt()
    scaled = (found.gradient.double() / steep.clamp_min(1e-300).view(-1, 1, 1, 1)).float()
    condition = {"threat": threat.norm, "attack": "pgd", "eps": float(threat.eps)}
    facts = {"label": found.labels.double().tolist(), "sample": found.index.double().tolist()}
    shown = {
        "clean": (pngs(found.clean, (low, high)), _answers(subject, found.clean)),
        "attacked": (pngs(found.moved, (low, high)), _answers(subject, found.moved)),
        "perturbation": (pngs(change, (-largest or -1.0, largest or 1.0)), {"factor": [factor] * len(change)}),
        "input_gradient": (pngs(scaled, (-1.0, 1.0)), {"at_white": _rounded(steep)}),
    }
    pictures = tuple(Pictures(name, png, {**facts, **columns}, condition) for name, (png, columns) in shown.items())
    protocol: dict[str, Any] = {
        **condition,
        "count": len(found.labels),
        "selection": "the first correctly classified test samples of each class in a seeded order",
        "seed": subject.seed,
        "pgd": f"{PGD_STEPS} steps of 2.5 eps / {PGD_STEPS}, random start, to the highest loss",
        "perturbation": f"times {factor:.3g}",
        "input_gradient": f"of the cross-entropy at the clean input; black and white at {SPREADS} root mean squares",
    }
    return Findings(protocol={"adversarial": protocol}, pictures=pictures)


def _answers(subject: Subject, inputs: Tensor) -> dict[str, list[float]]:
    best = subject.form.predict(inputs).mean.cpu().max(-1)
    return {"predicted": best.indices.double().tolist(), "confidence": _rounded(best.values)}


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _skipped(reason: str) -> Findings:
    return Findings(protocol={"adversarial": {"skipped": reason}})

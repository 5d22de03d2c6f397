"""Whether a form's own uncertainty tells attacked inputs from clean ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pluriform.attacks.perturb import perturb
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.evaluation.bootstrap import Bootstrap
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.outliers import scores_of
from pluriform.evaluation.robustness import FRACTIONS, PGD_STEPS
from pluriform.evaluation.subject import Subject, stratified_index
from pluriform.metrics.detection import ScoreCounts, score_counts
from pluriform.result import Measure

__all__ = ["SAMPLES", "measure_detection"]

SAMPLES = 250


def measure_detection(
    subject: Subject, threats: Sequence[Threat], fractions: Sequence[float | int] = FRACTIONS, samples: int = SAMPLES
) -> Findings:
    """`auroc` of clean against attacked inputs for every score, threat and radius, attacked inputs being the positives.

    The whole form is attacked, an ensemble by the gradient of its mean prediction, and the attack goes on to the
    highest loss. (One that stops at the first misclassified point, which is enough for `robust_accuracy`, stops at the
    decision boundary, where entropy is largest: detection would look better than it is.) The attacker does not know the
    score; one that does can do better. The condition is `{"adversarial": "pgd", "threat": "linf", "eps": 0.1, "score":
    "entropy"}` or alike.

    Args:
        subject: The form and its answers.
        threats: Each is climbed in `fractions` of its eps.
        fractions: Of eps; 0 is left out.
        samples: At most so many correctly classified test samples are attacked, stratified and seeded.

    Raises:
        ConfigError: A radius in the wrong scale.

    References:
        Ratzlaff, Li, 2019, HyperGAN: a generative model for diverse, performant neural networks, arXiv 1901.11058.
        Carlini, Wagner, 2017, Adversarial examples are not easily detected: bypassing ten detection methods, arXiv
        1705.07263.
    """
    if subject.data.bounds is None and any(threat.bounds is None for threat in threats):
        return _skipped(f"{subject.data.name} has no bounds, which a threat needs")
    right = (subject.test.prediction.mean.argmax(-1) == subject.test.targets).nonzero().squeeze(1)
    if len(right) == 0:
        return _skipped("no test sample is classified correctly")
    index = right[stratified_index(subject.test.targets[right], samples, subject.seed)]
    inputs, labels = subject.data.test.batch(index)
    clean = scores_of(subject.form.predict(inputs))
    measures: list[Measure] = []
    try:
        for threat in threats:
            threat = resolve_threat(subject.form, threat, inputs)
            check_scale(threat, inputs[0].numel())
            for fraction in sorted(set(fractions) - {0}):
                rung = threat.scaled(fraction)
                attacked = _attacked(subject, inputs, labels, rung)
                condition = {"adversarial": "pgd", "threat": rung.norm, "eps": rung.eps}
                measures += [
                    _auroc(clean[score].cpu(), attacked[score].cpu(), subject.bootstrap, {**condition, "score": score})
                    for score in clean
                ]
    except NotImplementedError as error:
        return _skipped(str(error) or f"{type(subject.form).__name__} has no differentiable forward")
    protocol = {
        "samples": len(index),
        "subset": f"correctly classified test samples, stratified, seed {subject.seed}",
        "attack": f"PGD on the whole form, {PGD_STEPS} steps of 2.5 eps / {PGD_STEPS}, random start, highest loss",
        "positives": "attacked inputs, whether the attack succeeded or not",
        "attacker": "does not know the score; one that does can do better",
    }
    return Findings(tuple(measures), (), {"detection": protocol})


def _skipped(reason: str) -> Findings:
    return Findings(protocol={"detection": {"skipped": reason}})


def _attacked(subject: Subject, inputs: Tensor, labels: Tensor, threat: Threat) -> Mapping[str, Tensor]:
    options: dict[str, Any] = {"steps": PGD_STEPS, "stop_when_broken": False}
    moved = perturb(subject.form, inputs, labels, threat, "pgd", subject.seed, **options)
    return scores_of(subject.form.predict(moved))


def _auroc(clean: Tensor, attacked: Tensor, bootstrap: Bootstrap, condition: Mapping[str, Any]) -> Measure:
    counts = score_counts(-attacked, -clean)
    value = float(counts.auroc())
    (interval,) = bootstrap.detection(counts, _statistic)
    return measure("auroc", value, interval, bootstrap.words, count=len(clean) + len(attacked), condition=condition)


def _statistic(counts: ScoreCounts) -> Tensor:
    return torch.stack([counts.auroc()], -1)

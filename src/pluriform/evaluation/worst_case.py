"""Accuracy under AutoAttack, the worst case of a suite of attacks: slow, and the figure to be quoted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pluriform.attacks.auto_attack import WorstCase, auto_attack
from pluriform.attacks.threat import Threat
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.robustness import SAMPLES
from pluriform.evaluation.subject import Subject, stratified_index
from pluriform.result import Measure

__all__ = ["measure_worst_case"]


def measure_worst_case(
    subject: Subject, threats: Sequence[Threat], samples: int = SAMPLES, run: Path | None = None
) -> Findings:
    """`robust_accuracy` under AutoAttack at the full eps of every threat, on the samples of `measure_robustness`.

    The attacks run one after the other, each on the samples that still stand; the protocol tells how many it leaves.

    Args:
        subject: The form and its answers.
        threats: Norm and radius of each.
        samples: At most so many test samples, stratified and seeded.
        run: A folder for the state, where a later call goes on.

    Raises:
        ConfigError: A radius in the wrong scale.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690.
    """
    if subject.data.bounds is None and any(threat.bounds is None for threat in threats):
        return Findings(
            protocol={"auto_attack": {"skipped": f"{subject.data.name} has no bounds, which a threat needs"}}
        )
    index = stratified_index(subject.test.targets, samples, subject.seed)
    inputs, labels = subject.data.test.batch(index)
    protocol: dict[str, Any] = {
        "samples": len(index),
        "subset": "all test samples" if len(index) == len(subject.test) else f"stratified, seed {subject.seed}",
        "seed": subject.seed,
        "flags": [],
    }
    measures: list[Measure] = []
    try:
        for threat in threats:
            worst = auto_attack(
                subject.form,
                inputs,
                labels,
                threat,
                seed=subject.seed,
                batch_size=subject.form.batch_size,
                run=None if run is None else run / f"{threat.norm}-{threat.eps:g}",
            )
            measures.append(_figure(subject, worst.standing.cpu(), worst.threat))
            protocol[f"{threat.norm} {threat.eps:g}"] = _stages(worst)
            # The other signs are among those of `measure_robustness`.
            protocol["flags"] += [f"{threat.norm}: {flag.words}" for flag in worst.flags if flag.kind == "blind"]
    except NotImplementedError as error:
        protocol["skipped"] = str(error) or f"{type(subject.form).__name__} has no differentiable forward"
    return Findings(tuple(measures), protocol={"auto_attack": protocol})


def _figure(subject: Subject, standing: Tensor, threat: Threat) -> Measure:
    (interval,) = subject.bootstrap.means(standing[:, None].double())
    condition = {"threat": threat.norm, "attack": "autoattack", "eps": float(threat.eps)}
    value = float(standing.double().mean())
    words = subject.bootstrap.words
    return measure("robust_accuracy", value, interval, words, count=len(standing), condition=condition)


def _stages(worst: WorstCase) -> dict[str, Any]:
    """The suite, and of every attack how many samples it broke and how many still stand after it."""
    said: dict[str, Any] = {"suite": worst.suite.name, "clean_accuracy": worst.clean_accuracy}
    if worst.suite.note:
        said["note"] = worst.suite.note
    for stage in worst.stages:
        left = stage.attacked - stage.broken
        said[stage.attack] = f"breaks {stage.broken} of {stage.attacked}, {left} stand"
    return said

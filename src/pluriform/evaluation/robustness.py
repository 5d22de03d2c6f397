"""Accuracy under attack over a ladder of radii, with the sanity checks that an honest figure passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pluriform.attacks.masking import masking_flags
from pluriform.attacks.perturb import ATTACKS, perturb
from pluriform.attacks.suite import Member, fitting
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.errors import ConfigError, explain
from pluriform.evaluation.cost import count_macs
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject, stratified_index
from pluriform.result import Curve, Measure

__all__ = ["CLIMBED", "FRACTIONS", "SAMPLES", "check_attacks", "measure_robustness"]

FRACTIONS = (0.0, 0.125, 0.25, 0.5, 1.0)
SAMPLES = 1000
FLAGGED = 100  # Of them are looked at for masked gradients.
SEARCH_PASSES, MOST_MACS = 500, 200_000_000_000
TOLERANCE = 0.005
PGD_STEPS = 20
CLIMBED = ("fgsm", "pgd")
OPTIONS: Mapping[str, Mapping[str, Any]] = {"pgd": {"steps": PGD_STEPS}}
WORDS = {
    "fgsm": "one step of eps, no random start",
    "pgd": f"{PGD_STEPS} steps of 2.5 eps / {PGD_STEPS}, random start, 1 restart, worst iterate of each sample",
}


@dataclass(frozen=True, eq=False)
class _Rungs:
    """Correctness of every sample at every radius of one threat and attack.

    Attributes:
        eps: Radii, ascending.
        correct: Shape `(samples, radii)`.
    """

    eps: list[float]
    correct: Tensor

    @property
    def accuracy(self) -> list[float]:
        return self.correct.mean(0).tolist()


def check_attacks(attacks: Sequence[str], threats: Sequence[Threat], auto_attack: bool) -> None:
    """Make sure that all attacks are known, and that AutoAttack has a threat.

    Raises:
        ConfigError: One is not, or it has none.
    """
    odd = [name for name in attacks if name not in ATTACKS]
    if odd:
        remedy = "name some of these; AutoAttack is an option of its own"
        raise ConfigError(explain(f"attacks of {', '.join(ATTACKS)}", ", ".join(odd), "evaluate", remedy))
    if auto_attack and not threats:
        remedy = "name the threats, or leave auto_attack out"
        raise ConfigError(explain("a threat for AutoAttack", "none", "evaluate", remedy))


def measure_robustness(
    subject: Subject,
    threats: Sequence[Threat],
    fractions: Sequence[float | int] = FRACTIONS,
    samples: int = SAMPLES,
    attacks: Sequence[str] = CLIMBED,
) -> Findings:
    """`robust_accuracy` and the curve `robustness` for every threat under every attack, and `masked`.

    `masked` is 1 where gradients mislead these attacks (`masking_flags`), so that their figures are too high.
    The signs of masked gradients that take a search are left out where it would cost more than 200 GMAC, or an unknown
    number; the protocol says so.

    Args:
        subject: The form and its data.
        threats: Each is climbed in `fractions` of its eps.
        fractions: Of eps; 0 is the clean accuracy on the same samples.
        samples: At most so many test samples, stratified and seeded.
        attacks: By name, at their defaults but for PGD, which takes 20 steps. One that needs more classes gives way to
            its untargeted kin; one that the norm has not is left out, and the protocol says so.

    Raises:
        ConfigError: A radius in the wrong scale, or an unknown attack.
    """
    check_attacks(attacks, threats, auto_attack=False)
    if subject.data.bounds is None and any(threat.bounds is None for threat in threats):
        reason = f"{subject.data.name} has no bounds, which a threat needs"
        return Findings(protocol={"robustness": {"skipped": reason}})
    index = stratified_index(subject.test.targets, samples, subject.seed)
    inputs, labels = subject.data.test.batch(index)
    clean = float((subject.test.prediction.mean[index].argmax(-1) == labels).double().mean())
    protocol: dict[str, Any] = {
        "samples": len(index),
        "subset": "all test samples" if len(index) == len(subject.test) else f"stratified, seed {subject.seed}",
        "seed": subject.seed,
        "clean_accuracy": clean,
        **{name: WORDS.get(name, "at its defaults") for name in attacks},
        "fractions": list(fractions),
        "flags": [],
        "checked": "norm and bounds of every perturbed batch; figures from a new prediction of the returned inputs",
        "broken": "misclassified at the perturbed or at the clean input",
    }
    measures: list[Measure] = []
    curves: list[Curve] = []
    masked, macs = False, count_macs(subject.form, inputs[:1])
    searched = macs is not None and macs * FLAGGED * SEARCH_PASSES <= MOST_MACS
    protocol["masking"] = "all signs" if searched else "without searches, which would cost too much"
    try:
        for threat in threats:
            threat = resolve_threat(subject.form, threat, inputs)
            check_scale(threat, inputs[0].numel())
            few = inputs[:FLAGGED], labels[:FLAGGED]
            found = masking_flags(subject.form, *few, threat, subject.seed, searched=searched)
            masked |= any(flag.masked for flag in found)
            protocol["flags"] += [f"{threat.norm}: {flag.words}" for flag in found]
            members = _members(attacks, subject.form.signature.outputs, threat.norm, protocol)
            ladder = {m.method: _climb(subject, inputs, labels, threat, m, sorted(fractions)) for m in members}
            protocol["flags"] += [f"{threat.norm}: {words}" for words in _violations(ladder, clean)]
            for name, rungs in ladder.items():
                measures += _figures(subject, rungs, {"threat": threat.norm, "attack": name})
                curves.append(_curve(measures[-len(rungs.eps) :], {"threat": threat.norm, "attack": name}))
        measures.append(measure("masked", float(masked), count=min(FLAGGED, len(index))))
    except NotImplementedError as error:
        protocol["skipped"] = str(error) or f"{type(subject.form).__name__} has no differentiable forward"
    return Findings(tuple(measures), tuple(curves), {"robustness": protocol})


def _members(attacks: Sequence[str], classes: int, norm: str, protocol: dict[str, Any]) -> list[Member]:
    """The attacks as they are run, each once."""
    found = {name: fitting(Member(name, OPTIONS.get(name, {})), classes, norm) for name in attacks}
    for name, member in found.items():
        if member is None:
            protocol.setdefault("left out", []).append(f"{name}: not for {norm} and {classes} classes")
    return list({member.method: member for member in found.values() if member is not None}.values())


def _climb(
    subject: Subject, inputs: Tensor, labels: Tensor, threat: Threat, attack: Member, fractions: Sequence[float | int]
) -> _Rungs:
    columns: list[Tensor] = []
    clean = (subject.form.predict(inputs).mean.argmax(-1).cpu() == labels).double()
    for fraction in fractions:
        scaled = threat.scaled(fraction)
        moved = perturb(subject.form, inputs, labels, scaled, attack.method, subject.seed, **attack.options)
        columns.append(clean * (subject.form.predict(moved).mean.argmax(-1).cpu() == labels))
    return _Rungs([threat.eps * fraction for fraction in fractions], torch.stack(columns, 1))


def _figures(subject: Subject, rungs: _Rungs, condition: Mapping[str, Any]) -> list[Measure]:
    bootstrap = subject.bootstrap
    facts = zip(rungs.eps, rungs.accuracy, bootstrap.means(rungs.correct), strict=True)
    return [
        measure(
            "robust_accuracy",
            value,
            interval,
            bootstrap.words,
            count=len(rungs.correct),
            condition={**condition, "eps": eps},
        )
        for eps, value, interval in facts
    ]


def _curve(measures: Sequence[Measure], condition: Mapping[str, Any]) -> Curve:
    columns = {
        "eps": [float(found.condition["eps"]) for found in measures],
        "accuracy": [found.value for found in measures],
        "low": [float(found.low or 0.0) for found in measures],
        "high": [float(found.high or 0.0) for found in measures],
    }
    return Curve("robustness", columns, condition)


def _violations(ladder: Mapping[str, _Rungs], clean: float) -> list[str]:
    """Broken rules of the ladder: eps 0 equals clean, accuracy falls with eps, PGD is at least as strong as FGSM."""
    words = []
    for name, rungs in ladder.items():
        steps = list(zip(rungs.eps, rungs.accuracy, strict=True))
        if steps and steps[0][0] == 0 and steps[0][1] != clean:
            words.append(f"{name} at eps 0 gives {steps[0][1]:.4f}, clean accuracy is {clean:.4f}")
        words += [
            f"{name} accuracy rises from {low[1]:.4f} at eps {low[0]:g} to {high[1]:.4f} at eps {high[0]:g}"
            for low, high in pairwise(steps)
            if high[1] > low[1] + TOLERANCE
        ]
    if not {"fgsm", "pgd"} <= set(ladder):
        return words
    pairs = zip(ladder["fgsm"].eps, ladder["fgsm"].accuracy, ladder["pgd"].accuracy, strict=True)
    words += [
        f"PGD leaves {pgd:.4f} at eps {eps:g}, more than FGSM with {fgsm:.4f}"
        for eps, fgsm, pgd in pairs
        if pgd > fgsm + TOLERANCE
    ]
    return words

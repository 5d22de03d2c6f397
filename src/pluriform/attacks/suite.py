"""Suites of attacks: which ones, in which order, with which budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pluriform.errors import ConfigError, explain

__all__ = ["KINDS", "Member", "Suite", "auto_attack_suite", "fitting"]

KINDS = ("standard", "plus", "rand")
ITERATIONS = 100
QUERIES = 5000
PASSES = 20  # Averaged over for a randomised form.


@dataclass(frozen=True)
class Member:
    """One attack of a suite.

    Attributes:
        method: Its name in `attack`.
        options: Passed to it.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Attacks that are run one after the other, each on the samples that still stand.

    Attributes:
        name: As it is told.
        members: In order.
        note: What differs from the published suite, in words; empty if nothing.
    """

    name: str
    members: tuple[Member, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError(explain("at least one attack", "none", "Suite", "name the attacks to run"))


def auto_attack_suite(classes: int, norm: str, kind: Literal["standard", "plus", "rand"] = "standard") -> Suite:
    """AutoAttack in its published order and budgets, cut down where a loss needs more classes than there are.

    `standard`: APGD-CE, APGD-T, FAB-T, Square with 5,000 queries. `plus`: APGD-CE, APGD-DLR and FAB with five starts,
    Square, APGD-T, FAB-T. `rand`, for forms that answer at random: APGD-CE and APGD-DLR, gradients averaged over 20
    passes. The targeted attacks take the 9 classes of the highest logits, or as many as there are. In L1 `standard` has
    five starts of APGD-CE, and APGD-T takes 5 classes.

    Args:
        classes: Number of outputs, at least 2. Targeted losses need 4, the difference of logits ratio 3.
        norm: Of the threat.
        kind: One of the three.

    Raises:
        ConfigError: Fewer than 2 classes, or no such kind.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690; 2021, Mind the box, arXiv 2103.01208 (L1).

    Example:
        >>> [member.method for member in auto_attack_suite(10, "linf").members]
        ['apgd-ce', 'apgd-t', 'fab-t', 'square']
        >>> auto_attack_suite(2, "linf").note
        '2 classes: without apgd-t; fab for fab-t'
    """
    if classes < 2 or kind not in KINDS:
        expected, got = f"at least 2 classes and a kind of {', '.join(KINDS)}", f"{classes} classes and {kind!r}"
        raise ConfigError(explain(expected, got, "AutoAttack", "correct the arguments"))
    members, notes = [], []
    for member in _published(kind, norm):
        own = fitting(member, classes, norm)
        if own != member:
            notes.append(f"without {member.method}" if own is None else f"{own.method} for {member.method}")
        if own is not None and own not in members:
            members.append(own)
    reason = f"{classes} classes" if classes < 4 else norm
    return Suite(f"AutoAttack {kind}", tuple(members), f"{reason}: {'; '.join(notes)}" if notes else "")


def _published(kind: str, norm: str) -> tuple[Member, ...]:
    once, often = {"steps": ITERATIONS}, {"steps": ITERATIONS, "restarts": 5}
    square = Member("square", {"queries": QUERIES})
    if kind == "rand":
        averaged = {"steps": ITERATIONS, "eot": PASSES}
        return Member("apgd-ce", averaged), Member("apgd-dlr", averaged)
    if kind == "plus":
        first = (Member("apgd-ce", often), Member("apgd-dlr", often), Member("fab", often))
        return (*first, square, Member("apgd-t", once), Member("fab-t", once))
    if norm == "l1":
        return Member("apgd-ce", often), Member("apgd-t", once | {"targets": 5}), Member("fab-t", once), square
    return Member("apgd-ce", once), Member("apgd-t", once), Member("fab-t", once), square


def fitting(member: Member, classes: int, norm: str) -> Member | None:
    """The member itself, what stands in its place for so few classes or in this norm, or nothing."""
    if member.method == "square" and norm == "l1":
        return None
    if member.method == "apgd-dlr" and classes < 3:
        return None
    if member.method == "apgd-t" and classes < 4:
        return Member("apgd-dlr", {"steps": ITERATIONS}) if classes == 3 else None
    return Member("fab", member.options) if member.method == "fab-t" and classes < 4 else member

"""The kinds of adversarial training by name, with their published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pluriform.attacks.threat import Threat
from pluriform.robust.objective import Setting

__all__ = ["KINDS", "Kind", "Numbers", "default_setting"]

Kind = Literal["pgd", "fgsm-rs", "n-fgsm", "free", "trades", "mart", "grad-align"]


@dataclass(frozen=True)
class Numbers:
    """Of one kind.

    Attributes:
        steps: Of the attack.
        length: Of all its steps together, in eps.
        weight: Of the second term of the loss, if there is one.
    """

    steps: int
    length: float
    weight: float = 0.0


KINDS: Mapping[str, Numbers] = {
    "pgd": Numbers(10, 2.5),
    "fgsm-rs": Numbers(1, 1.25),
    "n-fgsm": Numbers(1, 1.0, 2.0),
    "free": Numbers(1, 1.0),
    "trades": Numbers(10, 2.5, 6.0),
    "mart": Numbers(10, 2.5, 5.0),
    "grad-align": Numbers(1, 1.25, 0.2),
}


def default_setting(
    kind: str, threat: Threat, steps: int | None, step_size: float | int | None, weight: float | int | None
) -> Setting:
    """The setting of a kind, at the full radius; `None` takes the published number."""
    numbers = KINDS[kind]
    steps = numbers.steps if steps is None else steps
    length = numbers.length * threat.eps / max(1, steps) if step_size is None else float(step_size)
    return Setting(threat, steps, length, numbers.weight if weight is None else float(weight))

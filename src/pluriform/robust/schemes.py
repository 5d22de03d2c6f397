"""The schemes of adversarial training by name, with their published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pluriform.attacks.threat import Threat
from pluriform.robust.objective import Setting

__all__ = ["SCHEMES", "Scheme", "SchemeNumbers", "default_setting"]

Scheme = Literal["pgd", "fgsm-rs", "n-fgsm", "free", "trades", "mart", "grad-align"]


@dataclass(frozen=True)
class SchemeNumbers:
    """Of one scheme.

    Attributes:
        steps: Of the attack.
        length: Of all its steps together, in eps.
        weight: Of the second term of the loss, if there is one.
    """

    steps: int
    length: float
    weight: float = 0.0


SCHEMES: Mapping[str, SchemeNumbers] = {
    "pgd": SchemeNumbers(10, 2.5),
    "fgsm-rs": SchemeNumbers(1, 1.25),
    "n-fgsm": SchemeNumbers(1, 1.0, 2.0),
    "free": SchemeNumbers(1, 1.0),
    "trades": SchemeNumbers(10, 2.5, 6.0),
    "mart": SchemeNumbers(10, 2.5, 5.0),
    "grad-align": SchemeNumbers(1, 1.25, 0.2),
}


def default_setting(
    scheme: str, threat: Threat, steps: int | None, step_size: float | int | None, weight: float | int | None
) -> Setting:
    """The setting of a scheme, at the full radius; `None` takes the published number."""
    numbers = SCHEMES[scheme]
    steps = numbers.steps if steps is None else steps
    length = numbers.length * threat.eps / max(1, steps) if step_size is None else float(step_size)
    return Setting(threat, steps, length, numbers.weight if weight is None else float(weight))

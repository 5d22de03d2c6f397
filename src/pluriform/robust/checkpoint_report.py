"""`CheckpointReport`: what a file held, what was taken from it, and what its name and its settings say."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pluriform.attacks.threat import Threat
from pluriform.robust.stored_values import StoredTensor, printable
from pluriform.robust.stored_weights import Fit
from pluriform.robust.torch_parts import TorchFile

__all__ = ["CheckpointReport", "facts_of", "layout_of", "threat_of"]

MAX_FACTS = 100
PUBLISHED_NAME = re.compile(r"(?P<arch>[\w.-]+?)_(?P<norm>l2|linf)_eps(?P<eps>\d+(\.\d+)?)", re.IGNORECASE)
SETTINGS = ("args", "config", "hparams", "hyper_parameters")


@dataclass(frozen=True, eq=False)
class CheckpointReport:
    """What a file held and what was taken from it.

    Attributes:
        path: The file.
        sha256: Its checksum.
        container: `"zip"`, `"stream"`, `"tar"` or `"safetensors"`.
        layout: Who writes such files: `"robustness"`, `"RobustBench"`, `"timm"`, `"Lightning"` or `"state dict"`.
        entry: Keys that lead to the weights, joined by dots; empty where the file is the weights.
        prefix: What was stripped from every name.
        loaded: How many weights were loaded.
        dropped: Names left out on purpose: the attacker's copy, other copies, counters of batches.
        filled: Counters of batches that the file lacks.
        other_entries: Further sets of weights in the file that fit as well.
        normaliser: Where the statistics of the first layer come from: names in the file, `"given"` or `"none"`.
        threat: Radius and norm of the training, as the name of a published file says; none where it does not.
        facts: Plain values beside the weights: epoch, accuracies, architecture, settings.
        inert: Classes and functions that the file names and that were not touched.
    """

    path: str
    sha256: str
    container: str
    layout: str
    entry: str
    prefix: str
    loaded: int
    dropped: tuple[str, ...]
    filled: tuple[str, ...]
    other_entries: tuple[str, ...]
    normaliser: str
    threat: Threat | None
    facts: dict[str, str | int | float | bool]
    inert: tuple[str, ...]

    def __str__(self) -> str:
        """A few lines to read."""
        lines = [
            f"{self.path} ({self.container}, {self.layout}, sha256 {self.sha256[:16]})",
            f"{self.loaded} weights of {self.entry or 'the top'!r} under {self.prefix!r}, {len(self.dropped)} dropped",
            f"normaliser: {self.normaliser}",
            f"threat: {f'{self.threat.norm} {self.threat.eps:g}' if self.threat else 'unknown'}",
        ]
        lines += [f"also in the file: {', '.join(self.other_entries)}"] if self.other_entries else []
        lines += [f"named by the file and left alone: {', '.join(self.inert[:8])}"] if self.inert else []
        return "\n".join(lines)


def layout_of(fit: Fit, content: Any) -> str:
    """Who writes files like this."""
    top = content if isinstance(content, dict) else {}
    names = [name for pair in fit.statistics for name in pair]
    if any("attacker" in name.split(".") for name in fit.dropped) or any(n.endswith("new_mean") for n in names):
        return "robustness"
    if "pytorch-lightning_version" in top:
        return "Lightning"
    if "state_dict_ema" in top or ("arch" in top and "version" in top):
        return "timm"
    return "RobustBench" if names else "state dict"


def threat_of(path: Path) -> Threat | None:
    """Norm and radius in the name of a published file, where the radius of L-inf is in 255ths."""
    named = PUBLISHED_NAME.match(path.name)
    if named is None:
        return None
    norm, eps = named["norm"].lower(), float(named["eps"].rstrip("."))
    return Threat(norm, eps / 255 if norm == "linf" else eps, bounds=(0.0, 1.0))


def facts_of(opened: TorchFile, path: Path) -> dict[str, str | int | float | bool]:
    """Plain values at the top of the file and among its settings."""
    named = PUBLISHED_NAME.match(path.name)
    facts: dict[str, str | int | float | bool] = {"arch": named["arch"]} if named else {}
    content = opened.content if isinstance(opened.content, dict) else {}
    places = [("", content)] + [(f"{name}.", content[name]) for name in SETTINGS if isinstance(content.get(name), dict)]
    for place, values in places:
        for name, value in values.items():
            if len(facts) >= MAX_FACTS or not isinstance(name, str):
                continue
            if isinstance(value, StoredTensor) and not value.shape:
                value = opened.read(value).item()
            if isinstance(value, str):
                facts[place + printable(name)] = printable(value)
            elif isinstance(value, (bool, int, float)) and abs(value) < 2**63:
                facts[place + printable(name)] = value
    return facts

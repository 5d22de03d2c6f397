"""Which names of a checkpoint are which weights of a network: sets of weights, prefixes, copies, normalisers.

A published file wraps the same names in many ways: `{"model": {"module.model.conv1.weight": ...}}`, a second copy for
the attacker, averaged weights beside the last ones, statistics of the normaliser among the weights. The network decides
what is meant: the set and the prefix are taken under which most of its names are found.
"""

import itertools
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pluriform.errors import ShapeError, explain
from pluriform.robust.stored_values import StoredTensor, printable

__all__ = ["COUNTERS", "Fit", "WeightSet", "best_fit", "check_fit", "find_sets"]

DEPTH = 4
LONGEST = 512
DEEPEST = 12
MAX_SETS = 256
SHOWN = 4
OTHER_STATE = re.compile(r"optimi[sz]er|^optim$|(^|_)opt$|sched|scaler|^amp$|criterion|rng", re.IGNORECASE)
AVERAGED = re.compile(r"(^|[._])(ema|averaged|avg|swa|shadow)", re.IGNORECASE)
COUNTERS = ("num_batches_tracked", "n_averaged")
STATISTICS = (("new_mean", "new_std"), ("mean", "std"), ("mu", "sigma"), ("image_mean", "image_std"))


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Named tensors found at one place of a file.

    Attributes:
        entry: Keys that lead there, joined by dots; empty for the whole file.
        tensors: Name to tensor.
    """

    entry: str
    tensors: dict[str, StoredTensor]


@dataclass(frozen=True, eq=False)
class Fit:
    """How the names of a set answer those of a network.

    Attributes:
        found: The set.
        prefix: What its names carry before the network's.
        taken: Network's name to stored tensor.
        missing: Names of the network that the file lacks, counters of batches left out.
        filled: Counters of batches that the file lacks; they matter to no output.
        statistics: Pairs of names of means and standard deviations, those of the attacker last.
        dropped: Names left out on purpose: the attacker, other copies, counters.
        unexpected: Names that nothing explains.
    """

    found: WeightSet
    prefix: str
    taken: dict[str, StoredTensor]
    missing: tuple[str, ...]
    filled: tuple[str, ...]
    statistics: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    unexpected: tuple[str, ...]


def find_sets(content: Any) -> list[WeightSet]:
    """All dictionaries with named tensors, without those of optimisers, in the order of the file."""
    found, seen = [], set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    while waiting and len(found) < MAX_SETS:
        path, value = waiting.popleft()
        if not isinstance(value, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        tensors = {name: item for name, item in value.items() if isinstance(name, str) and _is_tensor(item)}
        if tensors:
            found.append(WeightSet(".".join(path), tensors))
        if len(path) < DEPTH:
            waiting += [
                ((*path, name), item)
                for name, item in value.items()
                if isinstance(name, str) and isinstance(item, dict) and not OTHER_STATE.search(name)
            ]
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor)


def best_fit(sets: Iterable[WeightSet], own: Mapping[str, Tensor]) -> Fit | None:
    """The set and prefix under which most names of the network are found; averaged weights win a tie.

    Args:
        sets: What the file holds.
        own: Parameters and buffers of the network.
    """
    fits = [_fit(found, own) for found in sets]
    return max(fits, key=lambda fit: (len(fit.taken), _averaged(fit)), default=None)


def _averaged(fit: Fit) -> bool:
    return bool(AVERAGED.search(fit.found.entry) or AVERAGED.search(fit.prefix))


def _fit(found: WeightSet, own: Mapping[str, Tensor]) -> Fit:
    stored = found.tensors
    names = {name for name in stored if not _of_attacker(name)} or set(stored)
    counts = _prefixes(names, own)
    prefix = max(counts, key=lambda p: (counts[p], bool(AVERAGED.search(p)), -len(p)), default="")
    taken = {name: stored[prefix + name] for name in own if prefix + name in names}
    absent = [name for name in own if name not in taken]
    left = [name for name in stored if not (name.startswith(prefix) and name.removeprefix(prefix) in taken)]
    statistics = _statistics(left)
    explained = {name for pair in statistics for name in pair}
    whole = all(name.endswith(COUNTERS) for name in absent)
    copies = _copies(stored, own, [p for p in counts if whole and p != prefix and counts[p] >= len(taken)])
    dropped = {
        name
        for name in left
        if name not in explained and (_of_attacker(name) or name in copies or name.endswith(COUNTERS))
    }
    return Fit(
        found,
        prefix,
        taken,
        tuple(name for name in absent if not name.endswith(COUNTERS)),
        tuple(name for name in absent if name.endswith(COUNTERS)),
        statistics,
        tuple(name for name in left if name in dropped),
        tuple(name for name in left if name not in explained and name not in dropped),
    )


def _of_attacker(name: str) -> bool:
    return "attacker" in name.split(".")


def prefixes_of(name: str) -> list[str]:
    """The empty prefix, and what stands before each of the first dots of the name, dot included."""
    dots = itertools.islice(re.finditer(r"\.", name[:LONGEST]), DEEPEST)
    return ["", *(name[: dot.end()] for dot in dots)]


def _prefixes(names: Iterable[str], own: Mapping[str, Tensor]) -> Counter[str]:
    """How many names of the network are found under each prefix."""
    return Counter(
        prefix
        for name in names
        if len(name) <= LONGEST
        for prefix in prefixes_of(name)
        if name.removeprefix(prefix) in own
    )


def _statistics(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names of means and standard deviations with one parent, those of the attacker last."""
    present = dict.fromkeys(names)
    pairs = []
    for name in present:
        parent, _, last = name.rpartition(".")
        for mean, std in STATISTICS:
            partner = f"{parent}.{std}" if parent else std
            if last == mean and partner in present:
                pairs.append((name, partner))
    return tuple(sorted(pairs, key=lambda pair: _of_attacker(pair[0])))


def _copies(stored: Mapping[str, StoredTensor], own: Mapping[str, Tensor], prefixes: Iterable[str]) -> set[str]:
    """Names of further whole copies of the network, each under a prefix of its own."""
    copies: set[str] = set()
    for prefix in prefixes:
        names = {prefix + name: tensor.shape for name, tensor in own.items() if prefix + name in stored}
        if all(stored[name].shape == tuple(shape) for name, shape in names.items()):
            copies |= names.keys()
    return copies


def check_fit(fit: Fit, own: Mapping[str, Tensor], network: str, where: str) -> None:
    """Refuse a set that is not, name by name and shape by shape, that of the network.

    Args:
        fit: What was found.
        own: Parameters and buffers of the network.
        network: Its name, for the message.
        where: The file, for the message.

    Raises:
        ShapeError: Names are missing or unexplained, or shapes or types differ; the message lists them.
    """
    reshaped = [name for name, tensor in fit.taken.items() if not _alike(tensor, own[name])]
    if not (fit.missing or fit.unexpected or reshaped):
        return
    if reshaped and not (fit.missing or fit.unexpected) and _only_head(reshaped, fit, own):
        weight = max(reshaped, key=lambda name: len(fit.taken[name].shape))
        classes, wanted = fit.taken[weight].shape[0], own[weight].shape[0]
        raise ShapeError(
            explain(
                f"a head of {wanted} classes, as {network} has",
                f"one of {classes} classes ({weight} {fit.taken[weight].shape}, not {tuple(own[weight].shape)})",
                where,
                f"build the network with {classes} classes and replace its head afterwards",
            )
        )
    faults = [
        _listed(f"{len(fit.missing)} missing", fit.missing),
        _listed(f"{len(fit.unexpected)} unexpected", fit.unexpected),
        _listed(
            f"{len(reshaped)} of another shape or type",
            [f"{name} {_kind(fit.taken[name])} instead of {_kind(own[name])}" for name in reshaped],
        ),
    ]
    alike = len(fit.taken) - len(reshaped)
    raise ShapeError(
        explain(
            f"the {len(own)} weights of {network}",
            f"{alike} that fit, {'; '.join(fault for fault in faults if fault)}",
            where,
            "build the network as it was trained"
            if 2 * alike > len(own)
            else "this is a checkpoint of another architecture: pass the network it was trained with",
        )
    )


def _kind(tensor: StoredTensor | Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _alike(stored: StoredTensor, own: Tensor) -> bool:
    return (
        stored.shape == tuple(own.shape)
        and stored.dtype.is_complex == own.dtype.is_complex
        and stored.dtype.is_floating_point == own.dtype.is_floating_point
    )


def _only_head(reshaped: list[str], fit: Fit, own: Mapping[str, Tensor]) -> bool:
    """Whether the last layer alone differs, and only in how many outputs it has."""
    last = list(own)[-1].rpartition(".")[0]
    return all(
        name.rpartition(".")[0] == last
        and fit.taken[name].shape[1:] == tuple(own[name].shape[1:])
        and fit.taken[name].shape[:1] != tuple(own[name].shape[:1])
        for name in reshaped
    )


def _listed(what: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what} ({', '.join(printable(name) for name in names[:SHOWN])}{more})"

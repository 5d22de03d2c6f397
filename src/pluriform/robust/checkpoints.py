"""`load_robust_imagenet`: published robust models, read without running anything that their files contain."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pluriform.errors import ConfigError, CorruptFileError, explain
from pluriform.robust.checkpoint_report import CheckpointReport, facts_of, layout_of, threat_of
from pluriform.robust.normalise import Normalise
from pluriform.robust.stored_values import Placeholder, StoredTensor, printable
from pluriform.robust.stored_weights import COUNTERS, Fit, WeightSet, best_fit, check_fit, find_sets
from pluriform.robust.torch_file import open_torch_file
from pluriform.robust.torch_parts import TorchFile
from pluriform.robust.torchvision_resnet import resnet_of

__all__ = ["LoadedCheckpoint", "load_robust_imagenet"]

MAX_CHANNELS = 4096
MAX_STEMS = 16


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A network with the weights of a file, and what was found there.

    Attributes:
        module: Takes images in [0, 1] and gives logits; in evaluation mode.
        report: What was found and taken.
    """

    module: nn.Module
    report: CheckpointReport


def load_robust_imagenet(
    path: str | Path,
    network: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    normalise: Normalise | Literal["file"] | None = "file",
    entry: str | None = None,
    sha256: str | None = None,
) -> LoadedCheckpoint:
    """Load a published robust model from its file; nothing in the file is executed.

    Files of the robustness package (robust-models-transfer), RobustBench, timm, torchvision and plain state dicts, in
    any format of torch.save whatever pickled them (dill too), or as safetensors.

    Args:
        path: The file.
        network: The network as it was trained, without the normaliser, or what makes it; its weights are replaced.
            Without it a ResNet, wide ResNet or ResNeXt in torchvision's names is built from the shapes in the file.
        normalise: First layer of the module. `"file"` takes the statistics that the file holds; give it where the file
            holds none, or `None` where the network does it itself.
        entry: Which set of weights, where the file holds several; averaged ones (EMA) by default.
        sha256: Checksum that the file must have, or its beginning.

    Returns:
        The module and the report.

    Raises:
        DataNotFoundError: There is no such file.
        CorruptFileError: It is damaged, no checkpoint, or has another checksum.
        ShapeError: It is the checkpoint of another network; the message lists what is missing, unexpected or reshaped.
        ConfigError: No network was given and none can be read off the file, or nobody says how inputs are normalised.

    References:
        Salman, Ilyas, Engstrom, Kapoor, Madry 2020, Do Adversarially Robust ImageNet Models Transfer Better?,
        arXiv:2007.08489.

    Example:
        >>> load_robust_imagenet("resnet18_l2_eps3.ckpt").module  # doctest: +SKIP
    """
    path = Path(path)
    with open_torch_file(path) as opened:
        checksum = _checksum(path, sha256)
        sets = _sets(opened, entry, path)
        network = _network(network, sets, path)
        own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
        fit = best_fit(sets, own)
        if fit is None:
            raise _no_weights(path, opened.content)
        check_fit(fit, own, type(network).__name__, str(path))
        layer, source = _first_layer(normalise, fit, opened, path)
        # All is read before anything is written: a file damaged at its end leaves the network as it was.
        values = {name: _finite(opened.read(stored), name, path) for name, stored in fit.taken.items()}
        facts = facts_of(opened, path)
    _fill(network, own, values)
    module = nn.Sequential(OrderedDict(normalise=layer, network=network)) if layer is not None else network
    report = CheckpointReport(
        path=str(path),
        sha256=checksum,
        container=opened.container,
        layout=layout_of(fit, opened.content),
        entry=fit.found.entry,
        prefix=fit.prefix,
        loaded=len(values),
        dropped=fit.dropped,
        filled=fit.filled,
        other_entries=tuple(other.entry for other in sets if other is not fit.found and _complete(other, own)),
        normaliser=source,
        threat=threat_of(path),
        facts=facts,
        inert=opened.inert,
    )
    return LoadedCheckpoint(module.eval(), report)


def _checksum(path: Path, wanted: str | None) -> str:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if wanted is not None and not (len(wanted) >= 8 and found.startswith(wanted.lower())):
        raise CorruptFileError(
            explain(f"a file of sha256 {wanted}", found, str(path), "download it again, or correct the checksum")
        )
    return found


def _sets(opened: TorchFile, entry: str | None, path: Path) -> list[WeightSet]:
    sets = find_sets(opened.content)
    if not sets:
        raise _no_weights(path, opened.content)
    chosen = [found for found in sets if entry is None or found.entry == entry]
    if not chosen:
        raise ConfigError(
            explain(
                f"one of the entries {[printable(found.entry) for found in sets[:8]]}",
                repr(entry),
                str(path),
                "name one of them, or leave entry out",
            )
        )
    return chosen


def _no_weights(path: Path, content: Any) -> CorruptFileError:
    got = f"an object of {content.name}" if isinstance(content, Placeholder) else f"a {type(content).__name__} without"
    return CorruptFileError(
        explain(
            "a dictionary of named tensors",
            got,
            str(path),
            "where a whole module was saved, save its state_dict() instead in the environment that made it",
        )
    )


def _network(given: nn.Module | Callable[[], nn.Module] | None, sets: list[WeightSet], path: Path) -> nn.Module:
    """The user's network, or the ResNet that the file describes."""
    if given is None:
        return _described(sets, path)
    network = given if isinstance(given, nn.Module) else given()
    if not isinstance(network, nn.Module):
        raise ConfigError(
            explain("a module or what makes one", type(network).__name__, "load_robust_imagenet", "pass a network")
        )
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        raise ConfigError(
            explain("a network with memory", "one on the meta device", "load_robust_imagenet", "build it on the CPU")
        )
    return network


def _described(sets: list[WeightSet], path: Path) -> nn.Module:
    for found in sets:
        stems = (name for name in found.tensors if name.endswith("conv1.weight") and "layer" not in name)
        for prefix in list(dict.fromkeys(name.removesuffix("conv1.weight") for name in stems))[:MAX_STEMS]:
            shapes = {
                name.removeprefix(prefix): tensor.shape
                for name, tensor in found.tensors.items()
                if name.startswith(prefix)
            }
            network = resnet_of(shapes)
            if network is None:
                continue
            own = network.state_dict()
            fits = all(shapes.get(name) == tuple(own[name].shape) for name in _weights(own))
            if fits and _stored_once([found.tensors[prefix + name] for name in _weights(own)]):
                return network
    raise ConfigError(
        explain(
            "the weights of a ResNet in the names of torchvision, or a network to load into",
            f"{len(sets[0].tensors)} tensors such as {printable(next(iter(sets[0].tensors)))}",
            str(path),
            "pass the network they belong to: load_robust_imagenet(path, network)",
        )
    )


def _stored_once(tensors: list[StoredTensor]) -> bool:
    """Whether the file holds about as many numbers as these tensors have: a few may claim the memory of a thousand."""
    stored = {tensor.storage: tensor.storage.numel for tensor in tensors}
    return sum(tensor.numel for tensor in tensors) <= 2 * sum(stored.values())


def _weights(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTERS)]


def _complete(found: WeightSet, own: dict[str, Tensor]) -> bool:
    fit = best_fit([found], own)
    return fit is not None and len(fit.taken) >= len(_weights(own))


def _first_layer(
    asked: Normalise | str | None, fit: Fit, opened: TorchFile, path: Path
) -> tuple[Normalise | None, str]:
    """The normaliser, and where it comes from."""
    if asked is None:
        return None, "none"
    if isinstance(asked, Normalise):
        return asked, "given"
    attacker = [pair for pair in fit.statistics if "attacker" in pair[0].split(".")]
    pairs = [pair for pair in fit.statistics if pair not in attacker] or attacker
    found = {pair: tuple(_channels(opened, fit.found.tensors[name], path) for name in pair) for pair in pairs}
    if len(set(found.values())) == 1:
        mean, std = found[pairs[0]]
        return Normalise(mean, std), ", ".join(pairs[0])
    raise ConfigError(
        explain(
            "one mean and standard deviation of the inputs in the file",
            f"{len(found)} that differ" if found else "none",
            str(path),
            "say how inputs in [0, 1] are normalised: normalise=Normalise() for ImageNet's statistics, "
            "Normalise(mean, std) for others, None where the network does it",
        )
    )


def _channels(opened: TorchFile, stored: StoredTensor, path: Path) -> tuple[float, ...]:
    if not 0 < stored.numel <= MAX_CHANNELS:
        raise CorruptFileError(
            explain("a mean or deviation for each channel", f"shape {stored.shape}", str(path), "pass normalise=")
        )
    return tuple(opened.read(stored).flatten().double().tolist())


def _finite(value: Tensor, name: str, path: Path) -> Tensor:
    if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
        raise CorruptFileError(
            explain("finite weights", f"NaN or infinity in {printable(name)}", str(path), "download the file again")
        )
    return value


@torch.no_grad()
def _fill(network: nn.Module, own: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Put the weights into the network, which has no memory of its own yet where the file described it."""
    if not any(tensor.is_meta for tensor in own.values()):
        for name, value in values.items():
            own[name].copy_(value)
        return
    laid_out = {
        name: values[name].to(like.dtype) if name in values else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in own.items()
    }
    network.load_state_dict(laid_out, assign=True)

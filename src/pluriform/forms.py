"""`save_form` and `load_form`: any form on disk as its structure in JSON and its tensors in safetensors, never pickle.

    form/
      structure.json        classes, attributes and the places of tensors
      weights.safetensors   every parameter and buffer once, shared ones included

A module is rebuilt from its class path, its attributes and its children, without calling its constructor, so that the
user's own classes work like those of torch. What JSON cannot hold (a lambda, a class local to a function) is taken from
a network that the caller passes as `module`.
"""

import copy
import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from pluriform.device import device_of
from pluriform.encoding import class_path, decode, encode, resolve_class
from pluriform.errors import ConfigError, CorruptFileError, RunError, explain
from pluriform.graph_code import graph_from_json, graph_to_json
from pluriform.runs import replace_folder

__all__ = ["load_form", "save_form"]

FORMAT = 1
INTERNAL = frozenset(nn.Module().__dict__) | {"_graph", "_code", "_tracer_cls", "_tracer_extras", "meta", "graph"}


def save_form(form: nn.Module, path: str | Path) -> Path:
    """Write `form` to the folder `path`, replacing a form that is there.

    Hooks of modules are not kept, which a line of the log says.

    Args:
        form: Any module; its parameters, buffers, submodules and JSON-able attributes are kept.
        path: Folder to write.

    Returns:
        The folder.

    Raises:
        RunError: `path` exists and is not a form.
    """
    path = Path(path)
    if path.exists() and not (path / "structure.json").exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            explain(
                "a new path or the folder of a form",
                "something else",
                str(path),
                "name another path; nothing was changed",
            )
        )
    hooked = [at or "the form" for at, part in form.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        words = "hooks of %s are not stored: the form that is loaded computes without them"
        logging.getLogger("pluriform").warning(words, ", ".join(hooked))
    tensors = _Tensors()
    structure = {"format": FORMAT, "root": _describe(form, "", tensors, {})}
    with replace_folder(path) as folder:
        save_file(tensors.stored, folder / "weights.safetensors")
        structure["sha256"] = _sha256(folder / "weights.safetensors")
        (folder / "structure.json").write_text(json.dumps(structure, indent=1))
    return path


def load_form(path: str | Path, *, module: nn.Module | None = None, device: torch.device | str | None = None) -> Any:
    """Read a form that `save_form` (or a run) wrote; nothing stored in it is executed.

    Args:
        path: Folder of the form, or of a run that holds one.
        module: A network that supplies classes and attributes which the files could only name.
        device: Where its tensors go; the CPU by default, `"auto"` for a GPU where there is one.

    Returns:
        The form, a module in the mode it was saved in.

    Raises:
        RunError: There is no form.
        CorruptFileError: A file is damaged or parts are missing.
        ConfigError: A class cannot be found, or an attribute could not be stored and `module` was not given.
    """
    path = Path(path)
    folder = path / "form" if (path / "form").is_dir() else path
    if not (folder / "structure.json").exists():
        raise RunError(
            explain(
                "the folder of a form", "no structure.json", str(path), "pass the path given to save, or a finished run"
            )
        )
    try:
        structure = json.loads((folder / "structure.json").read_text())
        # Copies lie aligned in memory, as fitted weights do: otherwise sums may differ in the last bit.
        stored = load_file(folder / "weights.safetensors", device=str(device_of(device or "cpu")))
        tensors = {name: tensor.clone() for name, tensor in stored.items()}
        if structure["format"] != FORMAT:
            raise KeyError(f"format {structure['format']}")
        if structure["sha256"] != _sha256(folder / "weights.safetensors"):
            raise ValueError("weights.safetensors is not the file that was written")
        return _Builder(tensors, module).build(structure["root"], "")
    except (ValueError, KeyError, TypeError, FileNotFoundError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CorruptFileError(
            explain(
                "a whole form", f"{type(error).__name__}: {error}", str(folder), "fit it again, or restore the folder"
            )
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


REFERENCES = ("_flat_weights", "_flat_weight_refs")
"""Lists in which recurrent layers keep their parameters once more."""


class _Tensors:
    """Tensors to be stored, each once, keyed by the first place it was met at."""

    def __init__(self) -> None:
        self.stored: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}

    def key(self, tensor: Tensor, place: str) -> str:
        if id(tensor) not in self._keys:
            self._keys[id(tensor)] = place
            self.stored[place] = tensor.detach().cpu().contiguous().clone()
        return self._keys[id(tensor)]


def _describe(module: nn.Module, place: str, tensors: _Tensors, seen: dict[int, str]) -> dict[str, Any]:
    """One module as JSON: class, attributes, tensors, children; a module met before is named by its first place."""
    if id(module) in seen:
        return {"shared": seen[id(module)]}
    seen[id(module)] = place

    def below(name: str) -> str:
        return f"{place}.{name}" if place else name

    code = isinstance(module, fx.GraphModule)
    description: dict[str, Any] = {
        "class": "torch.fx:GraphModule" if code else class_path(type(module)),
        "training": module.training,
        "attributes": _attributes(module, below, tensors),
        "parameters": {
            name: None if value is None else {"key": tensors.key(value, below(name)), "grad": value.requires_grad}
            for name, value in module._parameters.items()
        },
        "buffers": {
            name: None
            if value is None
            else {"key": tensors.key(value, below(name)), "persistent": name not in module._non_persistent_buffers_set}
            for name, value in module._buffers.items()
        },
        "modules": {
            name: None if child is None else _describe(child, below(name), tensors, seen)
            for name, child in module._modules.items()
        },
    }
    if code:
        description["code"] = graph_to_json(module.graph)
    return description


def _attributes(module: nn.Module, below: Any, tensors: _Tensors) -> dict[str, Any]:
    described = {}
    for name, value in vars(module).items():
        if name in REFERENCES and isinstance(module, nn.RNNBase):
            continue
        if name in INTERNAL or isinstance(getattr(type(module), name, None), functools.cached_property):
            continue
        try:
            described[name] = (
                {"tensor": tensors.key(value, below(name))} if isinstance(value, Tensor) else {"value": encode(value)}
            )
        except TypeError:
            described[name] = {"missing": type(value).__name__}
    return described


class _Builder:
    """Rebuilds modules from their description."""

    def __init__(self, tensors: dict[str, Tensor], prototype: nn.Module | None) -> None:
        self._tensors = tensors
        self._parameters: dict[str, nn.Parameter] = {}
        self._built: dict[str, nn.Module] = {}
        self._parts = dict(prototype.named_modules()) if prototype is not None else {}
        self._classes = {class_path(type(part)): type(part) for part in self._parts.values()}

    def build(self, described: dict[str, Any], place: str) -> nn.Module:
        if "shared" in described:
            return self._built[described["shared"]]
        cls = self._class(described["class"])
        if not issubclass(cls, nn.Module):
            raise ConfigError(explain("a class of modules", described["class"], place or "root", "check the file"))
        module = nn.Module() if cls is fx.GraphModule else cls.__new__(cls)
        nn.Module.__init__(module)
        self._built[place] = module
        for name, value in described["attributes"].items():
            module.__dict__[name] = self._attribute(value, name, place, cls)
        for name, value in described["parameters"].items():
            module.register_parameter(name, None if value is None else self._parameter(**value))
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
        for name, value in described["buffers"].items():
            tensor = None if value is None else self._tensors[value["key"]]
            module.register_buffer(name, tensor, persistent=value is None or value["persistent"])
        for name, child in described["modules"].items():
            module.add_module(name, None if child is None else self.build(child, f"{place}.{name}" if place else name))
        if "code" in described:
            module = self._built[place] = fx.GraphModule(module, graph_from_json(described["code"]))
        return (
            module.train(described["training"])
            if not described["modules"]
            else _with_mode(module, described["training"])
        )

    def _class(self, path: str) -> type:
        """The class of that path, or the one of that name in the prototype where its module was a script."""
        if path in self._classes:
            return self._classes[path]
        if path.startswith("__main__:"):
            alike = [cls for cls in self._classes.values() if cls.__qualname__ == path.partition(":")[2]]
            if alike:
                return alike[0]
        return resolve_class(path)

    def _parameter(self, key: str, grad: bool) -> nn.Parameter:
        if key not in self._parameters:
            self._parameters[key] = nn.Parameter(self._tensors[key], requires_grad=grad)
        return self._parameters[key]

    def _attribute(self, value: dict[str, Any], name: str, place: str, owner: type) -> Any:
        if "tensor" in value:
            return self._tensors[value["tensor"]]
        if "value" in value:
            return decode(value["value"])
        found = {at: part for at, part in self._parts.items() if _same_part(at, place) and hasattr(part, name)}
        nearest = max(found, key=lambda at: (type(found[at]) is owner, len(at)), default=None)
        if nearest is None:
            raise ConfigError(
                explain(
                    "attributes that JSON can hold",
                    f"{name} ({value['missing']}) of {owner.__module__}:{owner.__qualname__}",
                    place or "root",
                    "pass a network of the same architecture: load_form(path, module=net)",
                )
            )
        return copy.deepcopy(getattr(found[nearest], name))


def _with_mode(module: nn.Module, training: bool) -> nn.Module:
    module.training = training
    return module


def _same_part(prototype_place: str, stored_place: str) -> bool:
    """Whether a stored place is a place of the prototype, which sits somewhere inside the form."""
    return stored_place == prototype_place or stored_place.endswith(f".{prototype_place}") or not prototype_place

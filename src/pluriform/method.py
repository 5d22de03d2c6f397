"""`Method`: a frozen dataclass of hyper-parameters whose `fit` gives another form of a network."""

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from pluriform.data.check import check_fit_data
from pluriform.data.data import Data
from pluriform.device import device_of
from pluriform.encoding import record_to_json
from pluriform.errors import ConfigError, ShapeError, explain
from pluriform.forms import load_form
from pluriform.freed_memory import keep_freed_memory
from pluriform.graph.fingerprint import fingerprint
from pluriform.prediction import Predictor
from pluriform.runs import Run

__all__ = ["FitContext", "Method", "check_kinds", "check_module", "run_once"]


@dataclass(frozen=True)
class FitContext:
    """What a recipe gets beside module and data.

    Attributes:
        seed: Every random draw comes from it.
        run: Folder for checkpoints and the log; `None` keeps everything in memory.
        device: Where to compute.
    """

    seed: int
    run: Run | None
    device: torch.device


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: hyper-parameters in, a new form out.

    Subclasses are frozen dataclasses and implement `_fit`. Repr, equality, JSON and command-line flags come from the
    dataclass.
    """

    needs_module: ClassVar[bool] = True
    budget: ClassVar[tuple[str, ...]] = ()
    """Fields that say how long, not what: runs that differ in them alone are one run, which can be gone on with."""

    def fit(
        self,
        module: nn.Module | None,
        data: Data,
        *,
        seed: int = 0,
        run: str | Path | None = None,
        device: str = "auto",
    ) -> Predictor:
        """Fit the form; `module` and `data` stay unchanged, bit for bit.

        Args:
            module: The user's network; its output width must be `data.outputs`.
            data: Data set with a training split.
            seed: Source of every random draw.
            run: Folder for checkpoints, log and the fitted form. A finished run is loaded, an unfinished one resumed.
            device: `"auto"` takes the GPU where there is one.

        Returns:
            A new module, in evaluation mode.

        Raises:
            DataError: The data set cannot be used (labels, NaN, empty split, one class).
            ShapeError: The network does not take these inputs or has another output width.
            RunConflictError: `run` holds another configuration.
        """
        return self._fit_form(module, data, seed, run, device)

    def _fit_form(self, module: nn.Module | None, data: Data, seed: int, run: str | Path | None, device: str) -> Any:
        """`fit`, for forms of any kind."""
        check_kinds(module, data, self.needs_module)
        check_fit_data(data)
        where = device_of(device)
        self._check_trainings()
        copied = self._copied(module, data, seed)
        if copied is not None:
            self._check_network(copied, data)
        if run is None:
            return self._fitted(copied, data, FitContext(seed, None, where), module)
        config = {
            "method": {name: value for name, value in self.to_json().items() if name not in self.budget},
            "network": fingerprint(module),
            "data": data.fingerprint,
            "seed": seed,
        }
        with Run(run, config) as opened:
            if opened.done and not self._goes_on(opened):
                return load_form(opened.path / "form", module=module, device=where)
            form = self._fitted(copied, data, FitContext(seed, opened, where), module)
            form.save(opened.path / "form")
            opened.mark_done()
            return form

    def _check_trainings(self) -> None:
        """Refuse fresh weights asked of a training that is a part of this method, which would not draw them."""
        for item in dataclasses.fields(self):
            if getattr(getattr(self, item.name), "reinitialise", False):
                remedy = "reinitialise the network before it is fitted"
                got = f"{item.name} with reinitialise=True"
                raise ConfigError(explain("a training that begins where the network is", got, self.label, remedy))

    def _check_network(self, module: nn.Module, data: Data) -> None:
        """Raise where the network does not suit the data."""
        check_module(module, data)

    def _copied(self, module: nn.Module | None, data: Data, seed: int) -> nn.Module | None:
        """The copy that `_fit` may change; a method that gives a network other outputs does it here."""
        del data, seed
        return copy.deepcopy(module)

    def _fitted(self, module: nn.Module | None, data: Data, context: FitContext, source: nn.Module | None) -> Any:
        network = "" if module is None else type(module).__name__
        with keep_freed_memory():
            form = self._fit(module, data, context).eval()
        form.origin = {"label": self.label, "method": self.to_json(), "network": network, "seed": context.seed}
        if isinstance(source, Predictor) and source.origin:
            form.origin["source"] = source.origin
        return form

    def _goes_on(self, run: Run) -> bool:
        """Whether a finished run has work left within the budget of this method."""
        del run
        return False

    @abstractmethod
    def _fit(self, module: Any, data: Data, context: FitContext) -> Any:
        """The recipe. `module` is a private copy that the recipe may train in place."""

    @property
    def label(self) -> str:
        """Class name with the first two fields that differ from their defaults: `DeepEnsemble(members=10, …)`."""
        items = dataclasses.fields(self)
        changed = {item.name: value for item in items if (value := getattr(self, item.name)) != _default(item)}
        shown = [f"{name}={value!r}" for name, value in changed.items() if not dataclasses.is_dataclass(value)][:2]
        rest = ["…"] if len(shown) < len(changed) else []
        return type(self).__name__ + (f"({', '.join(shown + rest)})" if changed else "")

    def to_json(self) -> dict[str, Any]:
        """The method as plain JSON: its class path and every field."""
        return record_to_json(self)


def _default(item: dataclasses.Field) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def check_kinds(module: Any, data: Any, needs_module: bool) -> None:
    """Raise `ConfigError` where `module` is no network, or `data` no data set."""
    if not isinstance(data, Data):
        raise ConfigError(explain("a Data", type(data).__name__, "fit", "make one with pluriform.load"))
    if not isinstance(module, nn.Module) and (needs_module or module is not None):
        remedy = "pass a network, for instance pluriform.nets.build(name, data)"
        raise ConfigError(explain("a torch.nn.Module", type(module).__name__, "fit", remedy))


def check_module(module: nn.Module, data: Data) -> None:
    """Run the network once on two training samples, modes restored, and compare its output width with the data."""
    outputs = run_once(module, data)
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape[1:]) != (data.outputs,):
        single = isinstance(outputs, torch.Tensor)
        got = tuple(outputs.shape) if single else type(outputs).__name__
        raise ShapeError(
            explain(
                f"network outputs of shape (batch, {data.outputs}), one for each class or target",
                f"{got}",
                f"{type(module).__name__} on {data.name}",
                f"give its last layer {data.outputs} outputs" if single else "let its forward return one tensor",
            )
        )


def run_once(module: nn.Module, data: Data) -> Any:
    """Outputs for two training samples in evaluation mode, modes restored.

    Raises:
        ShapeError: The network does not take these inputs.
    """
    sample, _ = data.train.batch(torch.arange(min(2, len(data.train))))
    modes = {part: part.training for part in module.modules()}
    tensor = next(module.parameters(), sample)
    try:
        with torch.no_grad():
            return module.eval()(sample.to(tensor.device))
    except Exception as error:
        raise ShapeError(
            explain(
                f"a network that takes inputs of shape (batch, {', '.join(map(str, data.input_shape))})",
                f"{type(error).__name__}: {error}",
                f"{type(module).__name__} on {data.name}",
                "change the first layers of the network, or the data",
            )
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode

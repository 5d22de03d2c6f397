"""`compare`: fit several forms of one network and judge them side by side, in one resumable folder."""

import hashlib
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pluriform.attacks.threat import Threat, check_scale
from pluriform.data.check import check_fit_data
from pluriform.data.data import Data
from pluriform.errors import BoundsError, ConfigError, EmptySplitError, GraphError, explain
from pluriform.evaluation.environment import environment
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.robustness import CLIMBED, check_attacks
from pluriform.graph.fingerprint import fingerprint
from pluriform.method import Method, check_module
from pluriform.report.page import write_report
from pluriform.result import Result
from pluriform.runs import Run

__all__ = ["compare"]

UNSUITED = (BoundsError, ConfigError, EmptySplitError, GraphError)
"""What a method raises before it fits, where the network or the data are none that it takes."""


def compare(
    module: nn.Module,
    data: Data,
    methods: Sequence[Method],
    *,
    run: str | Path,
    network: str = "",
    outliers: Sequence[Data] = (),
    threats: Sequence[Threat] = (),
    attacks: Sequence[str] = CLIMBED,
    auto_attack: bool = False,
    seed: int = 0,
    device: str = "auto",
    tell: Callable[[str], object] = str,
) -> list[Result]:
    """Fit every method, evaluate every form, write `report.html`; a killed comparison resumes where it stopped.

    A form that does not apply to the network, does not fit memory or fails is a result that says why.

    Args:
        module: The network; stays unchanged.
        data: Data set with a training split.
        methods: What to fit, in the order of the table.
        run: Folder: one sub-folder a form, `results/`, `report.html`.
        network: Its name in the table; the class name by default.
        outliers: Data sets to be told apart from `data`.
        threats: Threat models for the robustness ladder.
        attacks: Names of attacks whose figures are drawn against eps.
        auto_attack: Also run AutoAttack at the full eps of each threat: slow, and the figure to be quoted.
        seed: Of every fit and every measurement.
        device: Where to fit.
        tell: Called with a line of text at each step.

    Returns:
        One result a method, in the same order.

    Raises:
        ConfigError: No methods, or one of them twice, an unknown attack, or a radius in the wrong scale.
        DataError: The data set cannot be used.
        ShapeError: The network does not fit the data.
        RunConflictError: `run` holds another comparison.
    """
    if not methods or len(set(methods)) < len(methods):
        got = ", ".join(method.label for method in methods) or "none"
        raise ConfigError(explain("different methods, at least one", got, "compare", "name each form once"))
    check_attacks(attacks, threats, auto_attack)
    check_fit_data(data)
    check_module(module, data)
    for threat in threats:
        bounds = data.bounds if threat.bounds is None else threat.bounds
        if bounds is not None:
            check_scale(replace(threat, bounds=bounds), math.prod(data.input_shape))
    config = {
        "methods": [method.to_json() for method in methods],
        "network": fingerprint(module),
        "data": data.fingerprint,
        "outliers": [part.fingerprint for part in outliers],
        "threats": [repr(threat) for threat in threats],
        **({"attacks": list(attacks)} if tuple(attacks) != CLIMBED else {}),
        **({"auto_attack": True} if auto_attack else {}),
        "seed": seed,
    }
    with Run(run, config) as opened:
        judged = {
            "outliers": list(outliers),
            "threats": list(threats),
            "attacks": list(attacks),
            "auto_attack": auto_attack,
        }
        results = []
        for method in methods:
            row = _Row(method, module, data, network or type(module).__name__, seed, device, opened)
            results.append(row.result(judged, tell))
        write_report(results, opened.path / "report.html")
        opened.mark_done()
    return results


class _Row:
    """One method of the comparison: fitted and evaluated once, its result kept in the run."""

    def __init__(
        self, method: Method, module: nn.Module, data: Data, network: str, seed: int, device: str, run: Run
    ) -> None:
        self.method, self.module, self.data, self.network = method, module, data, network
        self.seed, self.device, self.run = seed, device, run
        digest = hashlib.sha256(json.dumps(method.to_json(), sort_keys=True).encode()).hexdigest()[:8]
        self.folder = f"{type(method).__name__}-{digest}"

    def result(self, judged: Mapping[str, Any], tell: Callable[[str], object]) -> Result:
        """The stored result, or fit and evaluate now, with arguments of `evaluate`."""
        name = f"results/{self.folder}.json"
        if self.run.has(name):
            tell(f"{self.method.label}: already evaluated")
            return Result.from_json(self.run.read_json(name))
        start = time.perf_counter()
        try:
            tell(f"{self.method.label}: fitting")
            folder = self.run.path / "forms" / self.folder
            form = self.method.fit(self.module, self.data, seed=self.seed, run=folder, device=self.device)
            fitted = time.perf_counter()
            tell(f"{self.method.label}: fitted in {fitted - start:.1f} s, evaluating")
            found = evaluate(
                form,
                self.data,
                **judged,
                seed=self.seed,
                run=folder if judged["auto_attack"] else None,
            )
            found = replace(found, form=self.method.label, method=self.method.to_json(), network=self.network)
            tell(f"{self.method.label}: evaluated in {time.perf_counter() - fitted:.1f} s")
        except OSError:
            raise  # A full disk or a foreign folder concerns the whole comparison.
        except UNSUITED as error:
            found = self._without_figures("not applicable", error)
        except MemoryError as error:
            return self._without_figures("does not fit memory", error)
        except Exception as error:
            self.run.append({"form": self.method.label, "traceback": traceback.format_exc()})
            return self._without_figures("failed", error)
        self.run.write_json(name, found.to_json())
        return found

    def _without_figures(self, status: str, error: Exception) -> Result:
        return Result(
            form=self.method.label,
            method=self.method.to_json(),
            network=self.network,
            data={"name": self.data.name},
            seed=self.seed,
            status=status,  # type: ignore[arg-type]
            reason=str(error) or type(error).__name__,
            environment=environment(),
        )

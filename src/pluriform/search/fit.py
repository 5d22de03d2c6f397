"""`MorphismSearch`: grow a better network from yours."""

import importlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pluriform.data.data import Data
from pluriform.encoding import record_to_json
from pluriform.errors import ConfigError, PluriformError, explain, require
from pluriform.method import FitContext, Method
from pluriform.runs import Run
from pluriform.search.budget import Budget
from pluriform.search.journal import Journal
from pluriform.search.plan import Plan
from pluriform.search.python_source import readable
from pluriform.search.searched import Searched
from pluriform.search.start import check_storable
from pluriform.search.trial import Common
from pluriform.search.trials import Search
from pluriform.search.validation_split import with_validation
from pluriform.search.zero_cost import PRIORS
from pluriform.training.recipe import Recipe
from pluriform.training.validation import residual_variance

__all__ = ["MorphismSearch"]

JOURNAL = "journal.sqlite"
STEPS, MOST_EPOCHS = 600, 20
WHOLE = ("trials", "epochs", "retrain", "max_parameters", "processes")
NUMBERS = ("minutes", "final", "early_stopping", "max_latency")


@dataclass(frozen=True)
class MorphismSearch(Method):
    """Search for a better architecture, starting from the given network.

    Networks grow by morphs that keep their function (deeper, wider, with skips, with larger kernels). A strategy says
    which one is next; each child inherits the weights of its parent, is trained for a few epochs and scored on held-out
    samples; in the end the best is trained on. A journal in the run holds every trial: a search that was killed goes on
    where it was, and `fit` with a larger budget on the same run goes on with a finished one. Ctrl-C gives the best
    network so far.

    Args:
        minutes: Wall time, over all sittings of a run; `None` for no limit.
        trials: Networks in all, those that fail included; `None` for as many as there is time for (20 without a time).
        epochs: Of each trial; `None` for about 600 steps, at most 20 epochs, or, with minutes, as many as let some tens
            of networks be tried (parts of an epoch, if need be) after a longer training of the start.
        final: Share of the minutes (or of the epochs of all trials) that the best network is trained on in the end;
            `None` for 0.3, or more, up to 0.7, where there is hardly time for 30 epochs of the start.
        retrain: So many of the best networks are also trained from scratch in the end, for as long as their inherited
            weights were; both scores are on record, the better comes out. They share the time of `final`.
        objective: What is maximised, in place of accuracy or minus the root mean squared error: a function of outputs
            `(N, outputs)` (logits in classification) and targets of all validation samples that gives a number, higher
            is better; or its name, `package.module:function`. For processes it must be defined in a module.
        strategy: `bayesian` (a Gaussian process over architectures), `random` (moves by chance), `mutate` (moves of
            the best by chance).
        prior: What the prior mean of the Gaussian process is linear in, beside the logarithm of the number of
            parameters: `parameters` (nothing more), `macs`, `synflow`, or a function `(network, inputs) -> number` of a
            network that is not trained (a score of its NTK, say), or its name, `package.module:function`. How well it
            and the plain number of parameters rank the networks that were tried is told beside one another.
        early_stopping: Share of children that end early, compared with others after as many own epochs; 0 for none.
        max_parameters: Of every network that is tried; `None` for any.
        max_latency: Of the network that comes out, in ms for one input here; `None` for any.
        workers: Trials run in this process (`serial`), in local `processes` (each on a GPU where there are several), or
            on a `ray` cluster that sees the folder of the run.
        processes: Local processes.
        training: How every network is trained; `epochs` and `patience` are not used.

    References:
        Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.

    Example:
        >>> import pluriform as pf
        >>> data = pf.load("digits")
        >>> form = pf.MorphismSearch(trials=2, epochs=1, final=0).fit(pf.nets.build("mlp", data), data)
        >>> [trial["parent"] for trial in form.facts["trials"]]
        [None, 0]
        >>> "class Network(nn.Module):" in form.to_python()
        True
    """

    budget: ClassVar[tuple[str, ...]] = ("minutes", "trials", "workers", "processes")

    minutes: float | int | None = None
    trials: int | None = None
    epochs: int | None = None
    final: float | int | None = None
    retrain: int = 0
    objective: Callable[..., Any] | str | None = None
    strategy: Literal["bayesian", "random", "mutate"] = "bayesian"
    prior: Callable[..., Any] | str = "parameters"
    early_stopping: float | int = 0.25
    max_parameters: int | None = None
    max_latency: float | int | None = None
    workers: Literal["serial", "processes", "ray"] = "serial"
    processes: int = 2
    training: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for name in (*WHOLE, *NUMBERS):
            value, kinds = getattr(self, name), int if name in WHOLE else (int, float)
            missing = value is None and type(self).__dataclass_fields__[name].default is None
            expected = "a whole number" if name in WHOLE else "a number"
            require(self, missing or (isinstance(value, kinds) and not isinstance(value, bool)), name, expected)
        named = self.objective is None or isinstance(self.objective, str) or callable(self.objective)
        require(self, named, "objective", "a function of outputs and targets, or its name, package.module:function")
        require(self, isinstance(self.prior, str) or callable(self.prior), "prior", "a function or its name")
        Budget(self.trials, self.minutes)
        require(self, self.epochs is None or self.epochs >= 1, "epochs", "at least 1, or None")
        require(self, self.final is None or 0 <= self.final < 1, "final", "a share in [0, 1), or None")
        require(self, self.retrain >= 0, "retrain", "0 or more")
        require(self, not self.retrain or self.final != 0, "final", "a share above 0 where networks are trained anew")
        require(self, 0 <= self.early_stopping < 1, "early_stopping", "a share in [0, 1)")
        require(self, self.strategy in ("bayesian", "random", "mutate"), "strategy", "'bayesian', 'random' or 'mutate'")
        require(self, self.workers in ("serial", "processes", "ray"), "workers", "'serial', 'processes' or 'ray'")
        require(self, self.processes >= 1, "processes", "at least 1")
        for name in ("max_parameters", "max_latency"):
            value = getattr(self, name)
            require(self, value is None or 0 < value < math.inf, name, "a number above 0, or None")

    def to_json(self) -> dict[str, Any]:
        """The method as plain JSON; an objective by its name."""
        return record_to_json(self._named)

    @property
    def label(self) -> str:
        """As of every method, with the names of functions."""
        named = self._named
        return super().label if named == self else named.label

    @property
    def _named(self) -> "MorphismSearch":
        return replace(self, objective=_name(self.objective), prior=_name(self.prior) or "")

    def _goes_on(self, run: Run) -> bool:
        with Journal(run.path / JOURNAL) as journal:
            begun = sum(not trial.plan.get("final") for trial in journal.trials())
            budget = Budget(self.trials, self.minutes, journal.fact("seconds", 0.0))
            more = not budget.spent(begun) and not journal.fact("exhausted", False)
            return more or journal.fact("interrupted", False)

    def _fit(self, module: Any, data: Data, context: FitContext) -> Searched:
        for role in ("objective", "prior"):
            if context.run is not None and (_name(getattr(self, role)) or "").endswith("<lambda>"):
                remedy = "give it a name with def, so that the run can tell it from others"
                raise ConfigError(explain(f"a named {role}", "a lambda", str(context.run.path), remedy))
        budget, known = Budget(self.trials, self.minutes), data
        data = with_validation(data, context.seed)
        with ExitStack() as stack:
            folder = stack.enter_context(_folder(context.run))
            journal = stack.enter_context(Journal(folder / JOURNAL))
            budget = replace(budget, earlier=journal.fact("seconds", 0.0))
            objective = _function(self.objective, "objective")
            common = Common(module.cpu(), data, self.training, context.device.type, objective)
            if journal.forget_failures():
                shutil.rmtree(folder / "trials", ignore_errors=True)
            with _nothing_left(journal):
                search = Search(self._plan(budget, data, context), common, folder / "trials", journal)
                if context.run is not None:
                    check_storable(search.start, type(module).__name__)
            search.run()
            best = search.best()
            network = readable(search.network(best)).to(context.device).eval()
            facts = search.facts(best)
        noise = None
        if data.task == "regression":
            noise = residual_variance(network, data.validation, context.device)
        return Searched(network, known.signature, facts, noise, _cost(facts, len(data.train)))

    def _plan(self, budget: Budget, data: Data, context: FitContext) -> Plan:
        per_epoch = max(1, len(data.train) // self.training.batch_size)
        usual = max(1, min(MOST_EPOCHS, math.ceil(STEPS / per_epoch)))
        return Plan(
            budget=budget,
            epochs=self.epochs,
            usual=usual,
            final=self.final,
            retrained=self.retrain,
            strategy=self.strategy,
            prior=self.prior if self.prior in PRIORS else _function(self.prior, "prior"),
            stopped=self.early_stopping,
            max_parameters=self.max_parameters,
            max_latency=self.max_latency,
            workers=self.workers,
            processes=self.processes,
            seed=context.seed,
        )


def _name(objective: Callable[..., Any] | str | None) -> str | None:
    """`module:function`."""
    if objective is None or isinstance(objective, str):
        return objective
    kind = objective if hasattr(objective, "__qualname__") else type(objective)
    return f"{kind.__module__}:{kind.__qualname__}"


def _function(objective: Callable[..., Any] | str | None, role: str) -> Any:
    """The function of that name; `None` stays.

    Raises:
        ConfigError: There is none.
    """
    if objective is None or callable(objective):
        return objective
    module, _, name = objective.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise _no_function(objective, role, str(error)) from error
    if not callable(found):
        raise _no_function(objective, role, f"a {type(found).__name__}, which cannot be called")
    return found


def _no_function(name: str, role: str, why: str) -> ConfigError:
    got, remedy = f"{name!r} ({why})", "check the spelling, or pass the function itself"
    expected = "package.module:function" + (f", or one of {', '.join(PRIORS)}" if role == "prior" else "")
    return ConfigError(explain(expected, got, f"{role} of a search", remedy))


@contextmanager
def _nothing_left(journal: Journal) -> Iterator[None]:
    """A search that is refused before its first trial leaves no journal, so that the run is free for another."""
    try:
        yield
    except PluriformError:
        if not journal.trials():
            journal.close()
            journal.path.unlink()
        raise


@contextmanager
def _folder(run: Run | None) -> Iterator[Path]:
    """Of the run; without one, a folder that goes away."""
    if run is not None:
        yield run.path
        return
    with tempfile.TemporaryDirectory(prefix="pluriform-search-") as name:
        yield Path(name)


def _cost(facts: dict[str, Any], samples: int) -> dict[str, float | int]:
    done = [trial for trial in facts["trials"] if trial["state"] == "done"]
    epochs = sum(trial["epochs"] for trial in done)
    return {
        "training_seconds": facts["seconds"],
        "epochs": round(epochs),
        "sample_passes": round(epochs * samples),
    }

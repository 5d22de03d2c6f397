"""Inputs that a form draws: pictures, their scores beside those of test samples, and chains over their steps."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pluriform.axes import Inputs, Scores
from pluriform.errors import ConfigError
from pluriform.evaluation.cost import count_macs
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.pictures import byte_size, pictured, pngs
from pluriform.evaluation.subject import Subject
from pluriform.prediction import Predictor
from pluriform.result import Curve, Pictures
from pluriform.training.seeds import derive_seed

__all__ = ["Sampler", "Sampling", "measure_samples"]

DRAWN = 300
BINS = 40
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LADDER = (0, 1, 5, 20, 100)
REACHED = 0.01  # Of the test samples must score below the median sample, else chains are apart from the data.
LONG = 50  # A new chain makes so many times the steps of one update.
LEAST_RANGE = 0.1  # Of scores in nats that are worth telling apart.
MOST_CLASSES = 10
SMALL = 1024  # Bytes of a picture of which a result holds many.
LEAST_MACS = 40_000_000_000
STEP_PASSES = 2  # A step of a chain is a pass forwards and one back to the inputs.


class Sampler(Protocol):
    """Of chains."""

    @property
    def steps(self) -> int:
        """Steps of one update."""
        ...


@runtime_checkable
class Sampling(Protocol):
    """A form that draws inputs by chains that climb its score.

    Attributes:
        conditional: Whether chains of the buffer have classes.
        sampler: Of the chains.
        buffer: Chains at the end of training.
    """

    conditional: bool
    sampler: Sampler
    buffer: Sized

    def sample(
        self,
        n: int,
        label: int | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        fresh: bool | None = None,
    ) -> Inputs:
        """Inputs after `steps` steps of new chains (`fresh`), or of chains of the buffer; the same for the same seed.

        Raises:
            ConfigError: `fresh=False` of a form that keeps no chains, or too few.
        """
        ...


@dataclass(frozen=True)
class _Plan:
    """What is drawn.

    Attributes:
        fresh: Whether samples are new chains, since the form keeps none.
        steps: Of each sample.
        count: Samples whose scores are compared with the data's.
        shown: Pictures of them, or of each class.
        labels: Classes shown; empty where chains have none.
        ladder: Steps at which new chains are looked at.
        chains: How many of them, at most one a class.
    """

    fresh: bool
    steps: int
    count: int
    shown: int
    labels: tuple[int, ...]
    ladder: tuple[int, ...]
    chains: int


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Inputs on the CPU with what the form says of them, and further facts."""

    inputs: Inputs
    scores: Scores
    predicted: Tensor
    facts: dict[str, list[int]]

    def first(self, count: int) -> "_Drawn":
        facts = {name: values[:count] for name, values in self.facts.items()}
        return _Drawn(self.inputs[:count], self.scores[:count], self.predicted[:count], facts)

    def columns(self) -> dict[str, list[float]]:
        scores = [round(value, 3) for value in self.scores.tolist()]
        return {"log_density": scores, "predicted": self.predicted.tolist(), **self.facts}  # type: ignore[dict-item]


class _NoSamplesError(Exception):
    """Why there are none, in words."""


def measure_samples(subject: Subject) -> Findings:
    """Pictures `samples` and `chain`, curves `log_density`, `log_density_quantiles` and `chain_log_density`.

    `chains_apart` is 1 where more than half of the samples score below 99 % of the test samples, else 0: chains that
    never reach the data are samples of nothing that was learned.

    Samples are chains of the buffer after the steps of one more update, new ones where the form keeps none; shown are
    the first of them, without any selection, or the first of each class. New chains are also followed from their start:
    each state is drawn anew with the same seed, which gives the same chain. Neither costs more than a pass over the
    test split or 40 GMAC, whichever is more: there are fewer samples then, or fewer steps. Inputs that are no images of
    one or three channels have scores and no pictures, forms that draw nothing have no findings. What a form remembers
    of roll-backs in its training (`events`) is told in `roll_backs`.

    Args:
        subject: The form and its answers.
    """
    told = _roll_backs(subject.form)
    form, known = subject.form, subject.test.prediction.score
    if not isinstance(form, Sampling) or known is None:
        return Findings(protocol=told)
    try:
        plan = _plan(subject, form)
        samples = _drawn(subject.form, form.sample(plan.count, seed=subject.seed, steps=plan.steps, fresh=plan.fresh))
        grid = _grid(subject, form, plan) if plan.labels else samples.first(plan.shown)
        chains = _chains(subject, form, plan)
    except _NoSamplesError as error:
        return Findings(protocol={"samples": {"skipped": str(error)}, **told})
    curves = (*_compared(known, samples.scores), _over_steps(plan, chains))
    protocol = {"samples": _protocol(subject, form, plan, grid), **told}
    apart = measure("chains_apart", float(samples.scores.median() < known.double().quantile(REACHED)))
    return Findings((apart,), curves, protocol, _pictures(subject, grid, chains))


def _plan(subject: Subject, form: Sampling) -> _Plan:
    keeps = _keeps_chains(form)
    classes, steps = subject.data.outputs, form.sampler.steps
    small = byte_size(subject.data.input_shape) <= SMALL
    labels: tuple[int, ...] = ()
    if form.conditional or not keeps:
        labels = tuple(torch.linspace(0, classes - 1, min(classes, MOST_CLASSES)).long().tolist())
    each = (30 if small else 20) // len(labels) if labels else (40 if small else 20)
    if keeps and labels:
        each = min(each, max(1, len(form.buffer) // classes))
    most = min(DRAWN, len(form.buffer)) if keeps else DRAWN
    each = each if labels else min(each, most)
    chains = min(3 if small else 2, len(labels) or DRAWN)
    affordable = _affordable(subject)
    least = each * max(1, len(labels))
    count = min(most, max(least, affordable // max(1, steps)))
    longest = LONG * steps if keeps else steps
    ladder = sorted({step for step in (*LADDER, longest) if step <= longest})
    while len(ladder) > 1 and chains * sum(ladder) > affordable:
        ladder.pop()
    return _Plan(not keeps, min(steps, affordable // count), count, each, labels, tuple(ladder), chains)


def _affordable(subject: Subject) -> int:
    """Steps of single chains that cost a pass over the test split or 40 GMAC, whichever is more."""
    inputs, _ = subject.data.test.batch(torch.zeros(1, dtype=torch.int64))
    macs = count_macs(subject.form, inputs) or 1
    return max(LEAST_MACS // (STEP_PASSES * macs), len(subject.test) // STEP_PASSES)


def _keeps_chains(form: Sampling) -> bool:
    try:
        form.sample(1, steps=0, fresh=False)
    except ConfigError:
        return False
    return True


def _drawn(form: Predictor, inputs: Inputs, **facts: list[int]) -> _Drawn:
    if not inputs.isfinite().all():
        raise _NoSamplesError("chains reach NaN or infinity")
    prediction = form.predict(inputs)
    if prediction.score is None or not prediction.score.isfinite().all():
        raise _NoSamplesError("samples have no finite score")
    return _Drawn(inputs.cpu(), prediction.score.cpu(), prediction.mean.argmax(-1).cpu(), facts)


def _grid(subject: Subject, form: Sampling, plan: _Plan) -> _Drawn:
    """Row after row: one sample of each class."""
    parts = []
    for label in plan.labels:
        seed = derive_seed(subject.seed, f"class {label}")
        parts.append(form.sample(plan.shown, label, seed=seed, steps=plan.steps, fresh=plan.fresh))
    return _drawn(subject.form, torch.stack(parts, 1).flatten(0, 1), label=list(plan.labels) * plan.shown)


def _chains(subject: Subject, form: Sampling, plan: _Plan) -> _Drawn:
    """Chain after chain: its states."""
    states, labels = [], []
    for chain in range(plan.chains):
        label = plan.labels[chain * len(plan.labels) // plan.chains] if plan.labels else None
        seed = derive_seed(subject.seed, f"chain {chain}")
        states += [form.sample(1, label, seed=seed, steps=steps, fresh=True) for steps in plan.ladder]
        labels += [] if label is None else [label] * len(plan.ladder)
    numbers = [chain for chain in range(plan.chains) for _ in plan.ladder]
    facts = {"chain": numbers, "step": list(plan.ladder) * plan.chains, **({"label": labels} if labels else {})}
    return _drawn(subject.form, torch.cat(states), **facts)


def _compared(known: Tensor, drawn: Tensor) -> tuple[Curve, Curve]:
    """Shares of test samples and of drawn ones in bins of equal width, and quantiles of both."""
    known, drawn = known.double(), drawn.double()
    low, high = (float(end) for end in torch.cat([known, drawn]).aminmax())
    widen = max(0.0, LEAST_RANGE - (high - low)) / 2
    low, high = low - widen, high + widen
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    shares = {
        name: (torch.histc(values, BINS, low, high) / len(values)).tolist()
        for name, values in (("test", known), ("samples", drawn))
    }
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    quantiles = {name: values.quantile(levels).tolist() for name, values in (("test", known), ("samples", drawn))}
    return (
        Curve("log_density", {"centers": ((edges[1:] + edges[:-1]) / 2).tolist(), **shares}),
        Curve("log_density_quantiles", {"quantile": list(QUANTILES), **quantiles}),
    )


def _over_steps(plan: _Plan, chains: _Drawn) -> Curve:
    scores: Sequence[list[float]] = chains.scores.view(plan.chains, -1).tolist()
    columns = {f"chain_{place + 1}": list(column) for place, column in enumerate(scores)}
    return Curve("chain_log_density", {"step": [float(step) for step in plan.ladder], **columns})


def _pictures(subject: Subject, grid: _Drawn, chains: _Drawn) -> tuple[Pictures, ...]:
    if not pictured(subject.data.input_shape):
        return ()
    low, high = subject.data.bounds or tuple(float(end) for end in torch.cat([grid.inputs, chains.inputs]).aminmax())
    return (
        Pictures("samples", pngs(grid.inputs, (low, high)), grid.columns()),
        Pictures("chain", pngs(chains.inputs, (low, high)), chains.columns()),
    )


def _protocol(subject: Subject, form: Sampling, plan: _Plan, grid: _Drawn) -> dict[str, Any]:
    shown = plan.shown if pictured(subject.data.input_shape) else 0
    protocol = {
        "score": getattr(form, "score_name", "log p(x)"),
        "chains": "new ones" if plan.fresh else "of the buffer",
        **({} if plan.fresh else {"buffer": len(form.buffer)}),
        "steps_per_sample": plan.steps,
        "count": plan.count,
        **({"shown_of_each_class" if plan.labels else "shown": shown} if shown else {}),
        "selection": "none, the first ones",
        "test_samples": len(subject.test),
        "new_chains": f"{plan.chains}, at steps {', '.join(map(str, plan.ladder))}",
        "seed": subject.seed,
    }
    beyond = 0.0
    if subject.data.bounds is not None:
        low, high = subject.data.bounds
        beyond = float(((grid.inputs < low) | (grid.inputs > high)).double().mean())
    return protocol | ({"beyond_bounds": f"{100 * beyond:.2g} % of the pixels, shown clamped"} if beyond else {})


def _roll_backs(form: Predictor) -> dict[str, Any]:
    events = getattr(form, "events", None)
    if events is None:
        return {}
    told = [f"at step {e['step']}: {e['reason']}; back to step {e['restored']}, {e['change']}" for e in events]
    return {"roll_backs": {"count": len(told), **({"events": told} if told else {})}}

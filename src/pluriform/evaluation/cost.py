"""What a form costs: parameters, multiply-accumulates, latency, peak memory, training seconds."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pluriform.evaluation.bootstrap import Interval
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.memory import peak_memory
from pluriform.evaluation.subject import Subject
from pluriform.metrics.latency import REPEATS, SECONDS, repeated
from pluriform.metrics.multiplications import multiplications
from pluriform.prediction import Predictor
from pluriform.result import Measure

__all__ = ["count_macs", "count_parameters", "measure_cost", "reads_weights"]

BATCHES = (1, 128)


def measure_cost(subject: Subject) -> Findings:
    """`parameters`, `macs`, `latency`, `peak_memory`, and `training_seconds` where the form remembers them.

    A form without a finite network, none of whose parameters a prediction reads, has neither `parameters` nor `macs`.
    A form may carry a mapping `cost` with any of `parameters`, `macs` and `training_seconds`, which then count, or give
    the first two by `counted(inputs)`.
    """
    form = subject.form
    batches = {size: _batch(subject, size) for size in BATCHES}
    known: Mapping[str, Any] = _counted(form, batches[1]) | (getattr(form, "cost", None) or {})
    parameters = known.get("parameters", count_parameters(form) if reads_weights(form, batches[1]) else 0)
    macs = known.get("macs", count_macs(form, batches[1]) if parameters else None)
    measures: list[Measure] = []
    if parameters:
        measures.append(measure("parameters", float(parameters), unit="parameters"))
    if macs:
        measures.append(measure("macs", float(macs), unit="MAC"))
    measures += [_latency(form, batch) for batch in batches.values()]
    peak = peak_memory(form, batches[BATCHES[-1]])
    measures.append(measure("peak_memory", peak.mebibytes, unit="MiB", condition={"batch": BATCHES[-1]}))
    if "training_seconds" in known:
        measures.append(measure("training_seconds", float(known["training_seconds"]), unit="s"))
    protocol = {
        "latency": f"median of up to {REPEATS} calls of predict, for {SECONDS} s, after warm-up",
        "macs": "matrix products and convolutions of one prediction, counted as they run",
        "peak_memory": peak.how,
        "threads": torch.get_num_threads(),
    }
    return Findings(tuple(measures), (), {"cost": protocol})


def count_parameters(form: Predictor) -> int:
    """Trainable and frozen weights, shared ones once."""
    return sum(weight.numel() for weight in form.parameters())


def count_macs(form: Predictor, inputs: Tensor) -> int | None:
    """Multiply-accumulates of matrix products and convolutions in `form.predict(inputs)`; `None` where none run."""
    known = _counted(form, inputs)
    return known["macs"] if known else multiplications(lambda: form.predict(inputs)) or None


def _counted(form: Predictor, inputs: Tensor) -> dict[str, Any]:
    """What the form itself says: fused kernels, and weights drawn before, are not seen by those who watch."""
    own = getattr(form, "counted", None)
    return own(inputs) if own is not None else {}


class _Reads(TorchDispatchMode):
    """Notes the storages that operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        leaves = tree_leaves((args, kwargs))
        self.storages |= {leaf.untyped_storage()._cdata for leaf in leaves if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


def reads_weights(form: Predictor, inputs: Tensor) -> bool:
    """Whether `form.predict(inputs)` computes with any parameter of the form."""
    with _Reads() as reads:
        form.predict(inputs)
    return any(weight.untyped_storage()._cdata in reads.storages for weight in form.parameters())


def _batch(subject: Subject, size: int) -> Tensor:
    """The first test inputs, repeated where there are too few."""
    inputs, _ = subject.data.test.batch(torch.arange(size) % len(subject.data.test))
    return inputs.to(subject.form.device)


def _latency(form: Predictor, inputs: Tensor) -> Measure:
    milliseconds = sorted(repeated(lambda: form.predict(inputs), form.device))
    count = len(milliseconds)
    middle = float(torch.tensor(milliseconds, dtype=torch.float64).quantile(0.5))
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    interval = Interval(milliseconds[rank], milliseconds[count - 1 - rank])
    words = f"order statistics of {count} repeats"
    return measure("latency", middle, interval, words, unit="ms", count=count, condition={"batch": len(inputs)})

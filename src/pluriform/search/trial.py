"""One trial: a parent's network, morphed, trained for a few epochs, scored; what a worker does.

Nothing comes from outside but the task and what all trials share, so the same task gives the same weights in this
process, in another, and again after a kill.
"""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from pluriform.data.data import Data
from pluriform.errors import MemoryBudgetError, RunBusyError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.parameters import weights_of
from pluriform.metrics.latency import repeated
from pluriform.runs import Run, replace_file
from pluriform.search.memory import MemoryModel, predicted_bytes
from pluriform.search.morphism import Morph
from pluriform.search.moves import replay
from pluriform.search.start import morphable
from pluriform.search.stopping import hopeless
from pluriform.training.checkpoint import load_weights
from pluriform.training.feed import Batch, Feed, resident
from pluriform.training.layout import contiguous
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.step import training_step
from pluriform.training.validation import Assessment, assess

__all__ = ["Common", "Measured", "Task", "bytes_of", "network_of", "read_weights", "run_trial"]

RESULT = "result.json"
WEIGHTS = "weights.safetensors"
LATENCY_SECONDS = 0.05
PATIENCE = 20.0
"""Seconds for a worker of a killed search to end before its trial is run again."""


@dataclass(frozen=True, eq=False)
class Common:
    """What all trials of a search share; sent to a worker once.

    Attributes:
        module: The user's network, as it came.
        data: With the validation split of the search.
        recipe: Of every training; `epochs` comes with the task.
        device: `cpu` or `cuda`.
    """

    module: nn.Module
    data: Data
    recipe: Recipe
    device: str


@dataclass(frozen=True)
class Task:
    """What one trial is.

    Attributes:
        number: Of the trial.
        folder: Of the trial; holds its checkpoint, its log and in the end its weights.
        ancestry: Moves from the start to the parent.
        moves: From the parent to the child.
        weights: File of the parent's weights; `None` for those of the start as it came.
        seed: Of the training.
        epochs: Own epochs.
        least: Scores to go on with after each own epoch.
        deadline: Unix time at which it ends with what it has; `None` for no end.
        also_untrained: Also score the network as it comes, before its first epoch: the start.
        cap: Bytes that its training may take; `None` for any.
        checkpoint: Whether it could be resumed.
    """

    number: int
    folder: str
    ancestry: tuple[Morph, ...] = ()
    moves: tuple[Morph, ...] = ()
    weights: str | None = None
    seed: int = 0
    epochs: int = 1
    least: tuple[float, ...] = ()
    deadline: float | None = None
    also_untrained: bool = False
    cap: float | None = None
    checkpoint: bool = True


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        score: Validation accuracy, or minus the root mean squared error, of the weights that were kept; `None` where
            the time was up before there was one.
        figures: Everything else that was measured, as plain JSON.
    """

    score: float | None
    figures: dict[str, Any] = field(default_factory=dict)


_STARTS: WeakKeyDictionary[Common, Graph] = WeakKeyDictionary()
"""The start as a graph: reading it takes longer than a short training."""


class _End(Exception):  # noqa: N818 -- no error: leaves the loop between two steps
    """The training ends here."""


def run_trial(task: Task, common: Common) -> Measured:
    """Morph, train, score, and write the weights that were scored; what is written already is read."""
    device = torch.device(common.device)
    try:
        with _opened(task) as run:
            if not run.has(RESULT):
                measured = _measured(task, common, run, device)
                if measured.score is None:
                    return measured
                run.write_json(RESULT, {"score": measured.score, "figures": measured.figures})
            shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
            return Measured(**run.read_json(RESULT))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise


def _measured(task: Task, common: Common, run: Run, device: torch.device) -> Measured:
    begin = time.perf_counter()
    network: Any = network_of(task, common).module.to(device)
    needed = bytes_of(network, common)
    if task.cap is not None and (refusal := MemoryModel(task.cap).refusal(needed)):
        remedy = "smaller networks are tried; lower batch_size, or close other programs, for larger ones"
        raise MemoryBudgetError(explain("a network that fits into memory", refusal, f"trial {task.number}", remedy))
    session = _Session(network, task, common, run if task.checkpoint else None)
    score = session.train()
    if score is None:
        return Measured(None, {"ended": session.ended})
    write_weights(network, run.path / WEIGHTS)
    figures = session.figures() | {"latency": _latency(network, common.data, device), "parameters": _count(network)}
    figures["bytes"] = needed
    return Measured(score, figures | {"seconds": session.earlier + time.perf_counter() - begin})


def bytes_of(network: nn.Module, common: Common) -> float:
    """What training it will take, predicted."""
    recipe, (inputs, targets) = common.recipe, common.data.train.batch(torch.arange(2))
    size = min(recipe.batch_size, len(common.data.train))
    return predicted_bytes(network, inputs, targets, recipe, Loss(common.data.task), size)


def network_of(task: Task, common: Common) -> Graph:
    """The child with inherited weights, on the CPU.

    Raises:
        UnsupportedOpError: The start cannot be read.
        GraphError: A move is not legal.
        CorruptFileError: The parent's weights cannot be read.
    """
    if common not in _STARTS:
        example, _ = common.data.train.batch(torch.arange(2))
        _STARTS[common] = morphable(common.module, example)
    graph = replay(_STARTS[common], task.ancestry)
    if task.weights is not None:
        load_weights(graph.module, read_weights(Path(task.weights)))
    return replay(graph, task.moves) if task.moves else graph


def write_weights(network: nn.Module, path: Path) -> None:
    """Parameters and buffers as safetensors, in one step."""
    with replace_file(path) as temporary:
        save_file({name: part.detach().cpu().contiguous() for name, part in weights_of(network).items()}, temporary)


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `write_weights` wrote, aligned as computed tensors are."""
    return {name: part.clone() for name, part in load_file(path).items()}


def _opened(task: Task) -> Run:
    """The folder of the trial; a worker of a killed search may hold it for a moment yet."""
    began = time.monotonic()
    while True:
        try:
            return Run(task.folder, {"trial": task.number, "seed": task.seed})
        except RunBusyError:
            if time.monotonic() - began > PATIENCE:
                raise
            time.sleep(0.1)


class _Session:
    """The training of one child, which can end before its last epoch."""

    def __init__(self, network: fx.GraphModule, task: Task, common: Common, run: Run | None) -> None:
        data, device = common.data, torch.device(common.device)
        recipe = replace(common.recipe, epochs=task.epochs, patience=None)
        self.network, self.task, self.kind, self.device = network, task, data.task, device
        self.checked = resident(data.validation, device)
        self.judged = Loss(data.task)
        feed = Feed(data, recipe.batch_size, task.seed, recipe.augmentation, device)
        step = training_step(network, Loss.of(recipe, data, device), feed, recipe, task.epochs)
        self.ended = ""
        self.untrained: float | None = None

        def guarded(batch: Batch) -> Any:
            self._look_at_time()
            if self.ended:
                raise _End
            return step(batch)

        self.loop = Loop(
            network,
            guarded,
            feed,
            recipe,
            seed=task.seed,
            epochs=task.epochs,
            run=run,
            validate=self._validate,
            keep_best=True,
        )
        self.earlier = 0.0

    def train(self) -> float | None:
        """Train; the network ends with the weights of the best validation, whose score is given back."""
        stopping = self.loop.stopping
        if stopping is None:  # The loop keeps the best wherever it validates.
            return None
        if self.task.also_untrained:
            found = self._judge()
            self.untrained = self._score(found.log())
            stopping.update(found.loss if found.criterion is None else found.criterion, weights_of(self.network))
        begin = time.perf_counter()
        try:
            self.earlier = self.loop.run().training_seconds
        except _End:
            self.earlier = self.loop.earlier + time.perf_counter() - begin
            if not math.isfinite(float(stopping.loss)):
                return None
            load_weights(self.network, stopping.best)
        self.earlier -= time.perf_counter() - begin
        contiguous(self.network)
        self.network.zero_grad()
        return max(self.scores + ([] if self.untrained is None else [self.untrained]))

    def _judge(self) -> Assessment:
        """Validation; weights are chosen by accuracy, in regression by the loss."""
        found = assess(self.network, self.checked, self.judged, self.device)
        return found if found.accuracy is None else replace(found, criterion=-found.accuracy)

    def _score(self, figures: Mapping[str, Any]) -> float:
        if self.kind == "classification":
            return float(figures["validation_accuracy"])
        return -math.sqrt(figures["validation_loss"])

    def _validate(self) -> Assessment:
        self._look_at_time()
        found = self._judge()
        if hopeless([*self.scores, self._score(found.log())], self.task.least):
            self.ended = "hopeless"
        return found

    def _look_at_time(self) -> None:
        if self.task.deadline is not None and time.time() > self.task.deadline:
            self.ended = "time"
            raise _End

    @property
    def scores(self) -> list[float]:
        """After each own epoch so far (of those that were validated)."""
        return [self._score(row) for row in self.loop.history if "validation_loss" in row]

    def figures(self) -> dict[str, Any]:
        """Of every epoch, and how it ended."""
        columns: Mapping[str, list[float]] = self.loop.columns if self.loop.history else {}
        shown = {name: columns[name] for name in ("loss", "validation_loss") if name in columns}
        steps = self.loop.epoch * self.loop.feed.steps + self.loop.position
        found = {"scores": self.scores, **shown, "epochs": steps / self.loop.feed.steps, "ended": self.ended}
        return found if self.untrained is None else {**found, "untrained": self.untrained}


def _latency(network: nn.Module, data: Data, device: torch.device) -> float:
    """Median milliseconds of one input in evaluation mode."""
    sample = data.train.batch(torch.arange(1))[0].to(device)
    with torch.inference_mode():
        spent = sorted(repeated(lambda: network(sample), device, LATENCY_SECONDS))
    return spent[len(spent) // 2]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())

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

from pluriform.available_memory import memory_kills
from pluriform.data.data import Data
from pluriform.errors import DivergenceError, MemoryBudgetError, RunBusyError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.parameters import weights_of
from pluriform.metrics.latency import repeated
from pluriform.runs import Run, replace_file
from pluriform.search.accumulation import accumulated
from pluriform.search.judge import Judge, Objective
from pluriform.search.memory import MemoryModel, predicted_bytes, ran_out_of_memory
from pluriform.search.morphism import Morph
from pluriform.search.moves import replay
from pluriform.search.start import morphable
from pluriform.search.stopping import hopeless
from pluriform.search.stopwatch import Stopwatch
from pluriform.training.checkpoint import load_weights
from pluriform.training.feed import Batch, Feed
from pluriform.training.layout import contiguous
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import Assessment

__all__ = ["Common", "Measured", "Task", "bytes_of", "network_of", "read_weights", "run_trial"]

RESULT = "result.json"
PARTS = "parts.json"
KILLS = "kills.json"
WEIGHTS = "weights.safetensors"
LATENCY_SECONDS = 0.05
MOST_PARTS = 4
IN_TIME = 0.98
"""Of the time that is left, for the epochs that should be over by then."""
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
        objective: In place of accuracy or error; see `Judge`.
    """

    module: nn.Module
    data: Data
    recipe: Recipe
    device: str
    objective: Objective | None = None


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
        epochs: Own epochs, or rounds.
        steps: Of a round, where it is less than an epoch; `None` for an epoch.
        rate: Factor of the learning rate.
        scratch: Whether it begins with fresh weights.
        parts: In which a batch goes through the network, where memory ran out with whole ones.
        least: Scores to go on with after each own epoch.
        deadline: Unix time at which it ends with what it has; `None` for no end.
        most: Epochs that it may have where it is made as long as there is time until the deadline; 0 keeps to `epochs`.
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
    steps: int | None = None
    rate: float = 1.0
    scratch: bool = False
    parts: int = 1
    least: tuple[float, ...] = ()
    deadline: float | None = None
    most: int = 0
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
                measured = _in_room(task, common, run, device)
                if measured.score is None:
                    return measured
                run.write_json(RESULT, {"score": measured.score, "figures": measured.figures})
            shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
            return Measured(**run.read_json(RESULT))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise


def _in_room(task: Task, common: Common, run: Run, device: torch.device) -> Measured:
    """As `_measured`; where memory runs out, batches are halved, twice at most.

    So are they where the system ended processes for lack of memory while this trial ran: it would end this one again.
    """
    task = replace(task, parts=run.read_json(PARTS) if run.has(PARTS) else task.parts)
    killed = run.has(KILLS) and run.read_json(KILLS) < memory_kills()
    run.write_json(KILLS, memory_kills())
    while True:
        try:
            if killed:
                killed, remedy = False, "lower batch_size, or close other programs"
                got = "the system ended it, or a process beside it, out of memory"
                raise MemoryBudgetError(explain("a training that fits memory", got, f"trial {task.number}", remedy))
            return _measured(task, common, run, device)
        except Exception as error:
            most = min(MOST_PARTS, common.recipe.batch_size // 2)
            if task.parts >= most or not ran_out_of_memory(f"{type(error).__name__}: {error}"):
                raise
        task = replace(task, parts=2 * task.parts)
        run.write_json(PARTS, task.parts)
        shutil.rmtree(run.path / "checkpoint", ignore_errors=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measured(task: Task, common: Common, run: Run, device: torch.device) -> Measured:
    begin = time.perf_counter()
    network: Any = network_of(task, common).module.to(device)
    needed = bytes_of(network, common, task.parts)
    if task.cap is not None and (refusal := MemoryModel(task.cap).refusal(needed)):
        remedy = "smaller networks are tried; lower batch_size, or close other programs, for larger ones"
        raise MemoryBudgetError(explain("a network that fits into memory", refusal, f"trial {task.number}", remedy))
    session = _Session(network, task, common, run if task.checkpoint else None)
    score = session.train()
    if score is None:
        return Measured(None, {"ended": session.ended})
    write_weights(network, run.path / WEIGHTS)
    figures = session.figures() | {"latency": _latency(network, common.data, device), "parameters": _count(network)}
    figures |= {"bytes": needed} | ({"parts": task.parts} if task.parts > 1 else {})
    return Measured(score, figures | {"seconds": session.earlier + time.perf_counter() - begin})


def bytes_of(network: nn.Module, common: Common, parts: int = 1) -> float:
    """What training it will take, predicted, with batches in so many parts."""
    recipe, (inputs, targets) = common.recipe, common.data.train.batch(torch.arange(2))
    size = -(-min(recipe.batch_size, len(common.data.train)) // parts)
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
    if task.weights is not None and not task.scratch:
        load_weights(graph.module, read_weights(Path(task.weights)))
    graph = replay(graph, task.moves) if task.moves else graph
    if task.scratch:
        reset(graph.module, derive_seed(task.seed, "scratch"))
    return graph


def reset(network: nn.Module, seed: int) -> None:
    """Fresh weights as the layers draw them; tensors that belong to no layer with a draw of its own stay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.modules():
            draw = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if callable(draw):
                draw()


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
        rate = task.rate * common.recipe.learning_rate
        recipe = replace(common.recipe, epochs=task.epochs, patience=None, learning_rate=rate)
        self.network, self.task = network, task
        self.judge = Judge(data, device, common.objective)
        feed = Feed(data, recipe.batch_size, task.seed, recipe.augmentation, device)
        self.epoch_steps = feed.steps
        feed.steps = min(feed.steps, task.steps or feed.steps)
        step: Any = training_step(network, Loss.of(recipe, data, device), feed, recipe, task.epochs)
        if task.parts > 1:
            step = accumulated(step, network, task.parts)
        self.ended = ""
        self.untrained: float | None = None

        self.watch = Stopwatch()

        def guarded(batch: Batch) -> Any:
            self._look_at_time()
            if self.loop.position == 0 and hopeless(self.scores, self.task.least):
                self.ended = "hopeless"
                raise _End
            self.watch.step()
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
            found = self.judge(self.network)
            stopping.update(_criterion(found), weights_of(self.network))
            self.untrained = self.judge.score(found.log()) if bool(stopping.loss.isfinite()) else None
        begin = time.perf_counter()
        try:
            self.earlier = self.loop.run().training_seconds
        except _End:
            self.earlier = self.loop.earlier + time.perf_counter() - begin
            if not math.isfinite(float(stopping.loss)):
                self._check_diverged()
                return None
            load_weights(self.network, stopping.best)
        self.earlier -= time.perf_counter() - begin
        contiguous(self.network)
        self.network.zero_grad()
        return max(self.scores + ([] if self.untrained is None else [self.untrained]))

    def _validate(self) -> Assessment:
        self._look_at_time()
        with self.watch.look():
            found = self.judge(self.network)
        if not math.isfinite(float(_criterion(found))):
            self.ended = "diverged"
            raise _End
        self._fill_time()
        return found

    def _check_diverged(self) -> None:
        """Raise where the training ended because no look at the validation split gave a number."""
        if self.ended == "diverged":
            remedy = "lower the learning rate, or look for a root, a logarithm or a quotient of validation samples"
            place = f"validation of trial {self.task.number}"
            raise DivergenceError(explain("finite outputs", "NaN or infinity", place, remedy))

    def _fill_time(self) -> None:
        """As many epochs as there is time for at the present pace, so that the learning rate has fallen by the end."""
        if self.task.most and self.task.deadline is not None:
            each = max(1e-9, self.watch.round_seconds(self.loop.feed.steps))
            left = math.floor(IN_TIME * (self.task.deadline - time.time()) / each)
            self.loop.change_length(min(self.task.most, self.loop.epoch + max(0, left)))

    def _look_at_time(self) -> None:
        if self.task.deadline is not None and time.time() > self.task.deadline:
            self.ended = "time"
            raise _End

    @property
    def scores(self) -> list[float]:
        """After each own epoch so far (of those that were validated)."""
        return [self.judge.score(row) for row in self.loop.history if "validation_loss" in row]

    def figures(self) -> dict[str, Any]:
        """Of every epoch, and how it ended."""
        columns: Mapping[str, list[float]] = self.loop.columns if self.loop.history else {}
        shown = {name: columns[name] for name in ("loss", "validation_loss") if name in columns}
        steps = self.loop.epoch * self.loop.feed.steps + self.loop.position
        found = {"scores": self.scores, **shown, "epochs": steps / self.epoch_steps, "steps": steps}
        found |= {"ended": self.ended, **self.watch.figures(), **self._merit()}
        return found if self.untrained is None else {**found, "untrained": self.untrained}

    def _merit(self) -> dict[str, float]:
        """What the trial is ranked by, where that is not its score."""
        stopping = self.loop.stopping
        merit = None if stopping is None else self.judge.merit(float(stopping.loss))
        return {} if merit is None else {"merit": merit}


def _criterion(found: Assessment) -> Tensor:
    """What the best weights are chosen by."""
    return found.loss if found.criterion is None else found.criterion


def _latency(network: nn.Module, data: Data, device: torch.device) -> float:
    """Median milliseconds of one input; the network is in evaluation mode from now on."""
    network.eval()
    sample = data.train.batch(torch.arange(1))[0].to(device)
    with torch.inference_mode():
        spent = sorted(repeated(lambda: network(sample), device, LATENCY_SECONDS))
    return spent[len(spent) // 2]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())

"""What a training tells while it runs: a bar on a terminal, JSON lines and TensorBoard files in the run."""

import json
import logging
import sys
import time
from typing import Any

from pluriform.errors import ConfigError, MissingExtraError, RunError, explain
from pluriform.runs import Run, replace_file

__all__ = ["Progress"]

PATIENCE = 2.0  # A training shorter than this, in seconds, shows no bar.
REFRESH = 0.1


class Progress:
    """Reports of one training.

    Args:
        label: Shown beside the bar and written into every line.
        steps: Steps of the whole training; the attribute may change while it runs.
        run: Receives the lines; `None` keeps quiet.
        tensorboard: Also write TensorBoard files.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
        ConfigError: TensorBoard is asked for without a run.
    """

    def __init__(self, label: str, steps: int, run: Run | None, tensorboard: bool = False) -> None:
        self.label, self.steps, self.run = label, steps, run
        self._bar: Any = None
        self._show = sys.stderr.isatty()
        self._start = self._shown = time.perf_counter()
        self._writer = _writer(label, run) if tensorboard else None

    def rewind(self, epoch: int, done: int = 0) -> None:
        """Drop the lines that a training resumed after `epoch` epochs, or `done` steps, writes again."""
        if self.run is None or not self.run.has("log.jsonl"):
            return
        lines = [
            line
            for line in self.run.read_lines()
            if line.get("training") != self.label
            or line["epoch"] <= epoch
            or ("roll_back" in line and line["roll_back"]["step"] < done)
        ]
        with replace_file(self.run.path / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))

    def step(self, done: int, loss: float) -> None:
        """Advance the bar to `done` steps; called after every step."""
        if not self._show:
            return
        now = time.perf_counter()
        if now - self._shown < REFRESH or now - self._start < PATIENCE:
            return
        self._shown = now
        self._bar = self._bar or _bar(self.label, self.steps)
        self._bar.update(self._bar.task_ids[0], completed=done, total=self.steps, loss=f"{loss:.4f}")

    def epoch(self, figures: dict[str, float | int]) -> None:
        """Write the line of a finished epoch.

        Raises:
            RunError: The disk is full or the folder cannot be written.
        """
        if self.run is not None:
            self._append(self.run, {"training": self.label, **figures})
        if self._writer is not None:
            for name, value in figures.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, figures["epoch"])

    def roll_back(self, epoch: int, trip: dict[str, Any]) -> None:
        """Say that a guard went back, and write its line.

        Raises:
            RunError: The disk is full or the folder cannot be written.
        """
        logging.getLogger("pluriform").warning(
            "%s, step %d: %s; back to step %d; %s",
            self.label,
            trip["step"],
            trip["reason"],
            trip["restored"],
            trip["change"],
        )
        if self.run is not None:
            self._append(self.run, {"training": self.label, "epoch": epoch, "roll_back": trip})

    def _append(self, run: Run, line: dict[str, Any]) -> None:
        try:
            run.append(line)
        except OSError as error:
            remedy = "free some space and start the same command again: the last good checkpoint is intact"
            raise RunError(explain("room for the log", str(error), str(run.path / "log.jsonl"), remedy)) from error

    def close(self) -> None:
        """Remove the bar and flush the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()


def _bar(label: str, steps: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.percentage:.0f} %  loss {task.fields[loss]}")
    columns = (TextColumn("{task.description}"), BarColumn(), text, TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(label, total=steps, loss="")
    bar.start()
    return bar


def _writer(label: str, run: Run | None) -> Any:
    if run is None:
        raise ConfigError(
            explain("a run folder for the TensorBoard files", "run=None", "Training", "pass run=, or tensorboard=False")
        )
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            explain(
                "the package tensorboard",
                "it is not installed",
                "tensorboard=True",
                "pip install 'pluriform[tensorboard]'",
            )
        ) from error
    return SummaryWriter(str(run.path / "tensorboard" / label))

import sys
import types

import pytest

from pluriform.errors import ConfigError, MissingExtraError, RunError
from pluriform.runs import Run
from pluriform.training import progress as progress_file
from pluriform.training.progress import Progress


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run", {}) as opened:
        yield opened


def test_lines_of_epochs(run):
    progress = Progress("training", 10, run)
    progress.epoch({"epoch": 1, "loss": 0.5})
    progress.close()
    assert run.read_lines() == [{"training": "training", "epoch": 1, "loss": 0.5}]


def test_a_full_disk_is_named(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "append", full)
    with pytest.raises(RunError, match=r"room for the log; got .*No space left.*checkpoint is intact"):
        Progress("training", 10, run).epoch({"epoch": 1})


def test_rewinding_drops_later_lines_of_this_training_alone(run):
    for label in ("member-0", "member-1"):
        for epoch in (1, 2, 3):
            Progress(label, 10, run).epoch({"epoch": epoch})
    run.append({"note": "kept"})
    Progress("member-1", 10, run).rewind(1)
    left = [(line.get("training"), line.get("epoch")) for line in run.read_lines()]
    assert left == [("member-0", 1), ("member-0", 2), ("member-0", 3), ("member-1", 1), (None, None)]


def test_the_bar_appears_on_a_terminal_and_only_after_a_while(monkeypatch, capsys):
    progress = Progress("training", 100, None)
    progress.step(50, 0.25)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("training", 100, None)
    progress.step(50, 0.25)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_file, "PATIENCE", -1.0)
    monkeypatch.setattr(progress_file, "REFRESH", -1.0)
    progress.step(50, 0.25)
    progress.steps = 200
    progress.step(50, 0.25)
    progress.close()
    shown = capsys.readouterr().err
    assert "training" in shown
    assert "25 %" in shown
    assert "0.25" in shown


def test_tensorboard_is_an_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pluriform\[tensorboard\]'"):
        Progress("training", 10, run, tensorboard=True)
    with pytest.raises(ConfigError, match="a run folder for the TensorBoard files"):
        Progress("training", 10, None, tensorboard=True)


def test_tensorboard_gets_the_figures(run, monkeypatch):
    written = []
    writer = types.SimpleNamespace(add_scalar=lambda *figure: written.append(figure), close=lambda: None)
    fake = types.SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    progress = Progress("training", 10, run, tensorboard=True)
    progress.epoch({"epoch": 2, "loss": 0.5})
    progress.close()
    assert written == [("loss", 0.5, 2)]

import importlib.util
import re
import sys

import pytest
import torch

import pluriform as pf
from pluriform.cli.main import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_tells_its_trials_and_writes_the_network_as_python(here, capsys):
    words = ["search", "digits", "--start", "mlp", "--epochs", "1", "--final", "0", "--strategy", "mutate"]
    assert main([*words, "--trials", "2", "--run", "runs/search"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "start mlp; MorphismSearch(trials=2" in told
    assert "trial 0, trained: 0." in told
    assert "trial 1 of 0, " in told
    assert "best 0." in told
    assert "1 trials left" in told
    assert "best of 2 trials (0 failed): trial " in told
    spec = importlib.util.spec_from_file_location("found_network", here / "runs/search/network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    form, data = pf.load_form("runs/search"), pf.load("digits")
    network = module.Network()
    network.load_state_dict(form.module.state_dict())
    assert torch.equal(network.eval()(data.test.inputs[:9]), form(data.test.inputs[:9]))

    assert main([*words, "--trials", "3", "--run", "runs/search", "--out", "new/mine.py"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "trial 2 of " in told
    assert "trial 1 of 0, " not in told
    assert "best of 3 trials" in told
    assert (here / "new/mine.py").exists()


def test_errors_are_one_line(here, capsys):
    assert main(["search", "digits", "--minutes", "0"]) == 1
    told = capsys.readouterr().err
    assert "got 0" in told
    assert "give the search some time" in told
    assert not (here / "runs").exists()


def test_errors_of_a_search_under_way_are_told_as_they_are(here, capsys):
    words = ["search", "digits", "--start", "mlp", "--epochs", "1", "--final", "0", "--strategy", "mutate"]
    assert main([*words, "--trials", "2", "--max-latency", "0.000001", "--run", "runs/slow"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "the smallest network of the search" in told
    assert "raise max_latency" in told
    assert "journal" not in told
    page = (here / "runs/slow/report.html").read_text()
    assert 'http-equiv="refresh"' not in page
    assert "is running" not in page
    assert "ended with an error" in page
    assert "stopped by hand" not in page


def test_ctrl_c_before_the_first_score_stops_without_a_traceback(here, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pluriform.search.trial._measured", stop)
    assert (
        main(["search", "digits", "--start", "mlp", "--trials", "2", "--epochs", "1", "--run", "runs/stopped"]) == 130
    )
    assert "journal" not in capsys.readouterr().err
    assert "stopped by hand" in (here / "runs/stopped/report.html").read_text()


def test_the_page_is_there_and_a_metric_is_maximised(here, capsys):
    (here / "metrics_of_mine.py").write_text(
        "def zeros(outputs, targets):\n    return (outputs.argmax(1) == 0).float().sum()\n"
    )
    words = ["search", "digits", "--start", "mlp", "--epochs", "1", "--final", "0", "--strategy", "mutate"]
    assert (
        main(
            [*words, "--trials", "2", "--metric", "metrics_of_mine:zeros", "--run", "runs/zeros", "--zero-cost", "macs"]
        )
        == 0
    )
    assert "page: runs/zeros/report.html" in capsys.readouterr().err
    page = (here / "runs/zeros/report.html").read_text()
    assert "How was the network found?" in page
    assert "has a zeros of" in page
    assert 'http-equiv="refresh"' not in page
    facts = pf.load_form("runs/zeros").facts
    assert [trial["score"] == int(trial["score"]) for trial in facts["trials"]] == [True, True]


OWN = """from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x

def build(data):
    return nn.Sequential(nn.Flatten(), Odd(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
"""


def test_a_network_of_the_working_folder_in_processes_that_cannot_be_written(here, capsys):
    (here / "nets_of_mine.py").write_text(OWN)
    words = ["search", "digits", "--start", "nets_of_mine:build", "--epochs", "1", "--final", "0", "--trials", "1"]
    assert main([*words, "--run", "runs/own", "--workers", "processes", "--processes", "1"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "best of 1 trials (0 failed)" in told
    assert re.search(r"found: runs/own; not as Python: expected layers of torch.nn .*got nets_of_mine.Odd", told)
    assert str(here) not in sys.path

import json
import re

import pytest

from pluriform.cli.main import COMMANDS, main

QUICK = ["--training.epochs", "3", "--deep-ensemble.members", "2"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch, tmp_path, few_digits):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_overview_names_every_command(words, capsys):
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_examples(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  pluriform {command} " in capsys.readouterr().out


def test_wrong_usage_and_errors_have_exit_codes(capsys):
    assert main(["compair"]) == 2
    assert "no command 'compair'" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert main(["compare", "digitz", "--out", "run"]) == 1
    assert re.search(r"pluriform compare: expected .*digits.*; got 'digitz'", capsys.readouterr().err)
    assert main(["compare", "digits", "--threats", "linf=1"]) == 1
    assert "NORM:EPS such as linf:0.1" in capsys.readouterr().err
    assert main(["fit", "magic", "digits"]) == 1
    assert "one of training, deep-ensemble, hypergan, infinite-width" in capsys.readouterr().err


def test_compare_end_to_end_and_again(capsys, tmp_path):
    words = ["compare", "digits", "--run", "run", *QUICK]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert all(
        name in shown.out
        for name in ("Training", "DeepEnsemble", "HyperGAN", "InfiniteWidth", "Accuracy", "page: run/report.html")
    )
    assert "288 train / 32 validation / 80 test" in shown.err.replace("\n", " ")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Four forms of mlp on digits" in page
    results = [json.loads(path.read_text()) for path in (tmp_path / "run" / "results").glob("*.json")]
    assert sorted(result["status"] for result in results) == ["ok"] * 4
    assert main(words) == 0
    assert capsys.readouterr().err.count("already evaluated") == 4
    assert main([*words, "--seed", "1"]) == 1
    assert "nothing was overwritten" in capsys.readouterr().err


def test_fit_evaluate_report(capsys, tmp_path):
    assert main(["fit", "training", "digits", "--epochs", "3", "--run", "run"]) == 0
    assert main(["evaluate", "run", "digits", "--threats", "linf:0.05"]) == 0
    assert "result: run/result.json" in capsys.readouterr().out
    assert main(["report", "run/result.json", "--out", "page.html"]) == 0
    assert (tmp_path / "page.html").stat().st_size > 100_000
    assert main(["report", "nowhere.json"]) == 1
    assert "no such file (nowhere.json)" in capsys.readouterr().err


def test_a_network_of_the_user(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        head = nn.MaxPool1d(1), nn.ReLU(), nn.Linear(32, 10)\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), *head)\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
        "def build(data):\n"
        "    return Net()\n"
    )
    words = ["compare", "digits", "--net", "mine:build", "--forms", "training", "infinite-width", "--out", "run"]
    assert main([*words, "--training.epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "not applicable" in shown
    assert "max_pool" in shown.replace("\n", "").replace(" ", "") or "max-pool" in shown
    assert main(["compare", "digits", "--net", "mine:nothing"]) == 1
    assert "package.module:build that can be imported" in capsys.readouterr().err

"""What the flags of `pluriform evaluate` ask of `evaluate`."""

from types import SimpleNamespace

import pytest

import pluriform as pf
from pluriform.cli import evaluate as module
from pluriform.result import Result


@pytest.fixture
def given(monkeypatch):
    """What `evaluate` is asked."""
    asked = {}

    def evaluate(form, data, **options):
        asked.update(options, form=form, data=data)
        return Result("Training()", {}, "mlp", {"name": data.name}, 0)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(
        module, "load_form", lambda folder, module=None: SimpleNamespace(folder=folder, origin={"seed": 3})
    )
    return asked


@pytest.mark.parametrize(("flags", "asked"), [([], False), (["--auto-attack"], True)])
def test_autoattack_runs_only_when_asked_for_and_goes_on_beside_the_form(given, tmp_path, capsys, flags, asked):
    module.run(["run", "digits", "--threats", "linf:0.05", "--out", str(tmp_path / "r.json"), *flags])
    assert given["auto_attack"] is asked
    assert given["run"] == ("run" if asked else None)
    assert (given["form"].folder, given["threats"]) == ("run", [pf.Threat("linf", 0.05)])
    assert (tmp_path / "r.json").exists()
    assert "result: " in capsys.readouterr().out


def test_validation_samples_are_those_that_the_form_was_not_trained_on(given, tmp_path):
    module.run(["run", "digits", "--seed", "1", "--out", str(tmp_path / "r.json")])
    assert given["seed"] == 1
    own, other = pf.load("digits", seed=3).validation.inputs, pf.load("digits", seed=1).validation.inputs
    assert given["data"].validation.inputs.equal(own)
    assert not own.equal(other)

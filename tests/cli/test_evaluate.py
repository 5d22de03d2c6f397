"""What the flags of `pluriform evaluate` ask of `evaluate`."""

import pytest

from pluriform.attacks.threat import Threat
from pluriform.cli import evaluate as module
from pluriform.result import Result


@pytest.mark.parametrize(("flags", "asked"), [([], False), (["--auto-attack"], True)])
def test_autoattack_runs_only_when_asked_for(monkeypatch, tmp_path, capsys, flags, asked):
    given = {}

    def evaluate(form, data, **options):
        given.update(options, form=form)
        return Result("Training()", {}, "mlp", {"name": data.name}, 0)

    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module, "load_form", lambda folder, module=None: f"form in {folder}")
    module.run(["run", "digits", "--threats", "linf:0.05", "--out", str(tmp_path / "r.json"), *flags])
    assert given["auto_attack"] is asked
    assert (given["form"], given["threats"]) == ("form in run", [Threat("linf", 0.05)])
    assert (tmp_path / "r.json").exists()
    assert "result: " in capsys.readouterr().out

"""What forms tell of their wide networks reaches results and the page."""

import re
from dataclasses import replace

import torch

import pluriform as pf
from pluriform.data.data import Split
from pluriform.evaluation.narrowing import measure_narrowing
from pluriform.evaluation.subject import Subject
from pluriform.report.page import write_report


def test_the_wide_network_and_the_units_are_told(tmp_path):
    whole = pf.load("digits")
    data = replace(whole, train=Split(*whole.train.batch(torch.arange(200))))
    short = pf.Training(epochs=2)
    method = pf.WideThenNarrow(3, units=3, wide_training=short, imitation=short, logits=short, training=short)
    form = method.fit(torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 10),
    ), data)  # fmt: skip
    form.save(tmp_path / "form")
    result = pf.evaluate(pf.load_form(tmp_path / "form"), data, corruptions=())
    assert result.get("parameters").value == 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert result.get("wide_parameters").value == 64 * 24 + 24 + 24 * 24 + 24 + 24 * 10 + 10
    assert result.get("wide_macs").value == 64 * 24 + 24 * 24 + 24 * 10
    explained = [m for m in result.measures if m.name == "explained_variance"]
    assert [(m.condition["unit"], m.condition["end"]) for m in explained] == [(1, "2"), (2, "4")]
    assert [m.value for m in explained] == list(form.facts["explained"].values())[:-1]
    assert {m.condition["batch"] for m in result.measures if m.name == "wide_latency"} == {1, 128}
    assert result.protocol["wide_then_narrow"]["merge"] == form.facts["merge"]

    page = re.sub(r"<script.*?</script>", "", write_report(result, tmp_path / "page.html").read_text(), flags=re.S)
    for words in ("Wide then narrow", "merge: evaluation", "forward into 3", "wide parameters", "explained variance"):
        assert words in page
    assert f"{100 * explained[0].value:.1f}".replace("-", "\u2212") in page


def test_other_forms_tell_nothing():
    data = pf.load("digits")
    form = pf.Training(epochs=1).fit(pf.nets.build("mlp", data), data)
    assert measure_narrowing(Subject(form, data, 0)).measures == ()

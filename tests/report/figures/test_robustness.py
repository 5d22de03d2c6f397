"""Robustness: any set of attacks, told apart without colour; doubts stand where the figures stand."""

from dataclasses import replace

import pytest

from pluriform.report.figures.robustness import robustness
from pluriform.report.page import render
from pluriform.report.ranking import columns_of, robust_eps
from pluriform.report.row import rows_of
from pluriform.result import Curve, Measure

LADDER = [0.0, 0.1, 0.2]


def attacked(result, *attacks, protocol=None, masked=None, single=()):
    """The result with only these attacks: ladders, and single figures at the full eps."""
    kept = tuple(m for m in result.measures if m.name != "robust_accuracy")
    curves = tuple(c for c in result.curves if c.name != "robustness")
    for place, name in enumerate(attacks):
        falls = [0.9, 0.6 - 0.02 * place, 0.4 - 0.02 * place]
        condition = {"threat": "linf", "attack": name}
        curves += (Curve("robustness", {"eps": LADDER, "accuracy": falls}, condition),)
        kept += tuple(
            Measure("robust_accuracy", v, "", "higher", v - 0.05, v + 0.05, 100, {**condition, "eps": eps})
            for eps, v in zip(LADDER, falls, strict=True)
        )
    for name in single:
        condition = {"threat": "linf", "attack": name, "eps": 0.2}
        kept += (Measure("robust_accuracy", 0.25, "", "higher", 0.2, 0.3, 100, condition),)
    if masked is not None:
        kept += (Measure("masked", float(masked), better="lower", count=100),)
    return replace(result, measures=kept, curves=curves, protocol=protocol or {})


def plots(section):
    return [plot for view in section.views for plot in view.plots]


def test_any_attacks_have_names_and_strokes_of_their_own(results):
    names = ("fgsm", "square", "apgd-ce", "pgd", "fab-t", "apgd-t", "my attack")
    section = robustness(rows_of([attacked(results[0], *names)]))
    assert [label for label, _ in section.strokes] == [
        *("APGD-T", "APGD-CE", "FAB-T", "PGD", "Square", "FGSM", "my attack")
    ]
    strokes = [stroke for _, stroke in section.strokes]
    assert strokes[0] == "solid"
    assert len(set(strokes)) == len(names)
    (plot,) = plots(section)
    dashes = [trace["line"]["dash"] for trace in plot.data]
    assert len(set(dashes)) == len(names)
    assert [("error_y" in trace) for trace in plot.data] == [True, *[False] * 6]
    assert "my attack" in plot.data[-1]["hovertemplate"]
    assert [line[1] for line in section.table.rows][:2] == ["FGSM, linf", "Square, linf"]


def test_strokes_of_the_legend_are_drawn(results):
    page = render([attacked(results[0], *"abcdefg", single=["autoattack"])])
    strokes = [stroke for _, stroke in robustness(rows_of([attacked(results[0], *"abcdefg")])).strokes]
    for stroke in set(strokes) - {"solid"} | {"point"}:
        assert f"svg.{stroke} {{" in page
    assert 'class="stroke point"' in page


def test_autoattack_is_a_point_and_carries_the_name(results):
    section = robustness(rows_of([attacked(results[0], "fgsm", "pgd", single=["autoattack"])]))
    assert section.strokes == (("AutoAttack", "point"), ("PGD", "solid"), ("FGSM", "dash"))
    (plot,) = plots(section)
    point, line, _ = plot.data
    assert (point["mode"], point["x"], point["y"]) == ("markers", [0.2], [25.0])
    assert point["error_y"]["array"] == pytest.approx([5.0])
    assert point["marker"]["symbol"] == line["marker"]["symbol"]
    assert point["marker"]["size"] > line["marker"]["size"]
    (label,) = plot.layout["annotations"]
    assert label["y"] == pytest.approx(27 / 104)
    assert "quote this figure" in section.caption


def test_several_attacks_at_a_single_eps_are_told_apart(results):
    section = robustness(rows_of([attacked(results[0], "pgd", single=["square", "autoattack", "fab-t"])]))
    kinds = {"AutoAttack": "point", "FAB-T": "ring", "PGD": "solid", "Square": "spot"}
    assert dict(section.strokes) == kinds
    (plot,) = plots(section)
    looks = {(t["marker"]["symbol"], t["marker"]["size"]) for t in plot.data if t["mode"] == "markers"}
    assert looks == {("circle", 13), ("circle-open", 13), ("circle", 7)}
    page = render([attacked(results[0], "pgd", single=["square", "autoattack", "fab-t"])])
    assert all(f'class="stroke {kind}"' in page for kind in kinds.values())


def test_masked_gradients_are_said_in_the_caption_and_shown_with_what_was_seen(results):
    flags = {"robustness": {"flags": ["linf: 9 of 100 input gradients are exactly zero"]}}
    evil = attacked(results[0], "pgd", protocol=flags, masked=True)
    honest = [attacked(r, "pgd", masked=False) for r in results[1:3]]
    section = robustness(rows_of([evil, *honest]))
    assert "The gradients of Training are masked: attacks are misled, and its figures are too high." in section.caption
    assert "No sign of masked gradients was found in DeepEnsemble and InfiniteWidth." in section.caption
    (album,) = section.albums
    assert album.row.label == "Training"
    assert album.facts == (
        "Masked gradients: its accuracy under attack is too high. What was seen:",
        "Against l∞: 9 of 100 input gradients are exactly zero.",
    )


def test_masked_for_some_seeds(results):
    result = attacked(results[0], "pgd")
    found = Measure("masked", 1 / 3, better="lower", low=0.0, high=1.0, count=3, interval="over 3 seeds")
    section = robustness(rows_of([replace(result, measures=(*result.measures, found))]))
    assert section.albums[0].facts[0].startswith("Masked gradients for 1 of 3 seeds: ")


def test_a_reason_to_look_is_no_verdict(results):
    told = {"robustness": {"flags": []}, "auto_attack": {"flags": ["linf: Square breaks 3 samples"]}}
    section = robustness(rows_of([attacked(results[0], "pgd", protocol=told, masked=False)]))
    assert section.albums[0].facts == (
        "A reason to look closer, not a verdict:",
        "Against l∞: Square breaks 3 samples.",
    )
    assert "masked: " not in section.caption


def test_forms_that_were_not_looked_at_get_no_verdict(results):
    section = robustness(rows_of([attacked(results[0], "pgd")]))
    assert section.albums == ()
    assert "masked" not in section.caption


def test_the_column_takes_the_strongest_attack_that_most_forms_met(results):
    both = attacked(results[0], "pgd", single=["autoattack"])
    rows = rows_of([both, attacked(results[1], "pgd", single=["autoattack"])])
    assert robust_eps(rows) == {"threat": "linf", "attack": "autoattack", "eps": 0.2}
    assert "AutoAttack, linf 0.2" in {column.note for column in columns_of(rows)}
    rows = rows_of([both, attacked(results[1], "pgd"), attacked(results[2], "pgd")])
    assert robust_eps(rows)["attack"] == "pgd"

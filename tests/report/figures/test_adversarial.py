"""Attacked samples on the page: four pictures a sample, what stands below them, how they were made."""

from dataclasses import replace

import pytest

from pluriform.report.figures.adversarial import adversarial
from pluriform.report.page import render
from pluriform.report.row import rows_of
from pluriform.result import Result


def section_of(*results):
    return adversarial(rows_of(results))


def test_without_pictures_there_is_no_section(results, synthetic):
    assert section_of(*results) is None
    assert section_of(synthetic.drawer()) is None
    found = synthetic.attacked()
    assert section_of(replace(found, pictures=found.pictures[:3])) is None
    short = replace(found.pictures[3], png=found.pictures[3].png[:2])
    assert section_of(replace(found, pictures=(*found.pictures[:3], short))) is None


def test_a_sample_is_a_row_of_four(synthetic):
    (album,) = section_of(synthetic.attacked()).albums
    first, second = album.galleries
    assert (first.title, second.title) == ("Samples 1 to 3", "Samples 4 to 5")
    assert first.header == second.header == ("as it is", "attacked", "change\u00a0×\u00a05", "gradient")
    assert [len(gallery.tiles) for gallery in album.galleries] == [12, 8]
    assert {gallery.columns for gallery in album.galleries} == {4}
    clean, attacked, change, gradient = first.tiles[4:8]
    assert (clean.title, clean.note) == ("1", "> 99\u202f%")
    assert (attacked.title, attacked.note) == ("→ 7", "80\u202f%")
    assert (change.title, change.note) == ("", "")
    assert (gradient.title, gradient.note) == ("", "")
    assert clean.description == "test sample 11, 1, as it is: seen as 1, > 99\u202f%"
    assert attacked.description == "test sample 11, 1, attacked: seen as 7, 80\u202f%"
    assert change.description == "What the attack changed in test sample 11, 1, times 5"


def test_a_sample_that_stands_has_no_arrow(synthetic):
    (album,) = section_of(synthetic.attacked()).albums
    attacked = [tile.title for gallery in album.galleries for tile in gallery.tiles[1::4]]
    assert attacked == ["0", "→ 7", "2", "→ 7", "4"]
    assert album.facts == (
        "PGD within l∞ eps 0.1 (20 steps) turns 2 of 5 to another class; these are the first ones (seed 3).",
    )


@pytest.mark.parametrize(("factor", "said"), [(3.3333, "3.3"), (2.5, "2.5"), (15.94, "16"), (127.5, "128"), (1.0, "1")])
def test_the_factor_is_short(synthetic, factor, said):
    found = synthetic.attacked()
    change = replace(found.pictures[2], columns={**found.pictures[2].columns, "factor": [factor] * 5})
    (album,) = section_of(replace(found, pictures=(*found.pictures[:2], change, found.pictures[3]))).albums
    assert album.galleries[0].header[2] == f"change\u00a0×\u00a0{said}"


def test_no_probability_is_called_certain(synthetic):
    section = section_of(synthetic.attacked())
    assert section.table.rows[2][4] == "> 99\u202f%"


def test_the_numbers_are_those_of_the_pictures(synthetic):
    section = section_of(synthetic.attacked())
    assert section.table.rows[1] == ("Training", "11", "1", "1", "> 99\u202f%", "7", "80\u202f%", "0.00200")
    assert len(section.table.rows) == 5
    assert all(len(line) == len(section.table.header) for line in section.table.rows)


def test_only_the_first_forms_are_opened(synthetic):
    results = [replace(synthetic.attacked(), seed=seed) for seed in range(3)]
    assert [album.open for album in section_of(*results).albums] == [True, True, False]


@pytest.mark.parametrize("count", [1, 2])
def test_few_samples(synthetic, count):
    found = synthetic.attacked()
    few = tuple(
        replace(p, png=p.png[:count], columns={name: values[:count] for name, values in p.columns.items()})
        for p in found.pictures
    )
    (album,) = section_of(replace(found, pictures=few)).albums
    assert [gallery.title for gallery in album.galleries] == [f"Sample {i + 1}" for i in range(count)]


def test_pictures_without_figures_are_shown(synthetic):
    found = synthetic.attacked()
    bare = tuple(replace(p, columns={}, condition={}) for p in found.pictures)
    (album,) = section_of(replace(found, pictures=bare, protocol={})).albums
    assert album.galleries[0].tiles[0].title == "–"
    assert album.galleries[0].header[2] == "change\u00a0×\u00a0?"


def test_the_page_shows_the_pictures_and_no_empty_plot(synthetic):
    found = synthetic.attacked()
    page = render([found])
    own = page[: page.index('<script type="application/json"')]
    assert own.count("data:image/png;base64,iVBOR") == 20
    assert 'id="c0-adversarial"' in own
    assert 'data-figure="c0-adversarial"' not in own
    assert 'data-figure="c0-robustness"' in own
    evil = '"><script>alert(1)</script>'
    pictures = tuple(replace(p, png=[evil] * 5, condition={"attack": evil, "threat": evil}) for p in found.pictures)
    hostile = replace(found, pictures=pictures, protocol={"adversarial": {"selection": evil, "pgd": evil}})
    page = render([hostile])
    assert "<script>alert" not in page[: page.index('<script type="application/json"')]


def test_a_result_of_an_earlier_version_is_read(synthetic):
    found = synthetic.attacked()
    assert Result.from_json(found.to_json()).pictures[1].png == found.pictures[1].png

"""Samples on the page: what stands below each picture, how they were made, what is said of roll-backs."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pluriform.report.figures.detection import detection
from pluriform.report.figures.outliers import outliers
from pluriform.report.figures.samples import samples
from pluriform.report.headline import summary
from pluriform.report.page import render
from pluriform.report.ranking import columns_of
from pluriform.report.row import rows_of
from pluriform.result import Measure


def section_of(*results):
    return samples(rows_of(results))


def test_without_samples_there_is_no_section(results):
    assert section_of(*results) is None


def test_every_picture_has_its_class_and_its_score(synthetic):
    result = synthetic.drawer()
    (album,) = section_of(result).albums
    drawn, chain = album.galleries
    scores = result.pictures[0].columns["log_density"]
    assert [tile.note for tile in drawn.tiles] == [f"{s:.2f}".replace("-", "−") for s in scores]
    assert [tile.title for tile in drawn.tiles] == [*"0123456789", *"012345678", "3"]
    assert (drawn.columns, drawn.header) == (10, ())
    assert [tile.note for tile in chain.tiles] == ["−12.3", "−3.00", "1.50", "2.25", "−1234", "−4.00", "0.50", "2.00"]
    assert (chain.columns, chain.header) == (4, ("0", "1", "20", "1,000"))
    assert chain.tiles[-1].description == "Chain 2 after 1,000 steps, at 2.00"


def test_samples_of_a_class_that_are_seen_as_another_say_so(synthetic):
    (album,) = section_of(synthetic.drawer(conditional=True)).albums
    drawn, chain = album.galleries
    assert [tile.title for tile in drawn.tiles][-3:] == ["7", "8", "9 → 3"]
    assert drawn.tiles[-1].description.startswith("A sample of 9, seen as 3, at ")
    assert chain.title == "New chains of 0, 5 after so many steps"
    assert album.facts[0] == (
        "300 of the 10,000 chains of the training made 20 more steps; the first 2 of each class are shown, without any "
        "selection (seed 0)."
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"count": 48, "steps_per_sample": 1, "seed": 3}, "48 new chains made 1 step (seed 3)."),
        (
            {"count": 48, "steps_per_sample": 0, "buffer": 60, "shown": 9},
            "48 of the 60 chains of the training made no further steps; the first 9 are shown, without any selection "
            "(seed 0).",
        ),
    ],
)
def test_how_samples_were_made(synthetic, facts, words):
    assert section_of(synthetic.drawer(samples=facts)).albums[0].facts[0] == words


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"count": 0}, "Its training never ran away, so nothing had to be rolled back."),
        ({"count": 0, "trainings": 3}, "Its 3 trainings never ran away, so nothing had to be rolled back."),
        (
            {"count": 1, "events": ["at step 9: largest_score is 2e4; back to step 5, learning rate halved"]},
            "Its training ran away once, and the last good state was restored: at step 9: largest score is 2e4; back "
            "to step 5, learning rate halved.",
        ),
        (
            {"count": 5, "trainings": 2, "events": ["a", "b", "c", "d", "e"]},
            "Its 2 trainings ran away 5 times in all, and the last good state was restored: a; b; c; and 2 more below.",
        ),
    ],
)
def test_roll_backs_in_words(synthetic, told, words):
    assert section_of(synthetic.drawer(roll_backs=told)).albums[0].facts[1:] == (words,)


@pytest.mark.parametrize("apart", [False, True])
def test_chains_that_never_reach_the_data_are_said_at_the_top(synthetic, apart):
    result = synthetic.drawer()
    found = replace(result, measures=(*result.measures, Measure("chains_apart", float(apart), better="lower")))
    rows = rows_of([found])
    words = f"{rows[0].label} draws no samples of the data: most of them score below 99\u202f% of the test set."
    assert (words in summary(rows, columns_of(rows))) is apart


def test_data_and_samples_are_drawn_beside_one_another(synthetic):
    section = section_of(synthetic.drawer())
    compared, steps = section.views[0].plots
    inside, drawn = compared.data
    assert (inside["name"], drawn["name"]) == ("test set", "samples")
    assert inside["fill"] == "tozeroy"
    assert sum(inside["customdata"][:-1]) == pytest.approx(100)
    assert compared.note == "median 1.00 on the test set, 1.60 of samples"
    assert compared.layout["xaxis"]["title"]["text"] == "log p(x)"
    assert [trace["y"][-1] for trace in steps.data] == [2.25, 2.0]
    assert steps.layout["xaxis"]["ticktext"] == ["0", "1", "20", "1\u202fk"]
    (band,) = steps.layout["shapes"]
    assert (band["y0"], band["y1"]) == (-1.0, 2.5)
    assert ("JEM", "samples", "quantile 50 %", "1.60") in section.table.rows
    assert ("JEM", "chain 2", "step 1000", "2.00") in section.table.rows


def test_tables_have_plots_and_no_pictures(synthetic):
    section = section_of(replace(synthetic.drawer(), pictures=()))
    assert section.albums[0].galleries == ()
    assert len(section.views[0].plots) == 2
    assert "below each picture" not in section.caption


def test_chains_without_a_step_are_no_chains_to_follow(synthetic):
    result = synthetic.drawer(samples={"count": 30, "steps_per_sample": 0, "score": "log-odds"})
    drawn, chain = result.pictures
    still = replace(chain, columns={**chain.columns, "step": [0.0] * 8})
    section = section_of(replace(result, pictures=(drawn, still)))
    assert len(section.albums[0].galleries) == 1
    assert section.albums[0].facts[0] == "30 new chains made no steps (seed 0)."
    assert "by climbing its log-odds in" in section.caption
    assert "differences" not in section.caption


def test_pictures_without_curves_are_shown(synthetic):
    section = section_of(replace(synthetic.drawer(), curves=()))
    assert len(section.albums[0].galleries) == 2
    assert section.views[0].plots == ()


def test_only_the_first_forms_are_opened(synthetic):
    results = [replace(synthetic.drawer(), seed=seed) for seed in range(3)]
    assert [album.open for album in section_of(*results).albums] == [True, True, False]


def test_log_density_is_named_where_outliers_and_attacks_are_told(synthetic):
    drawer = synthetic.drawer()
    rows = rows_of([drawer, *synthetic.classification()[:1]])
    assert "log p(x)" in outliers(rows).choices[1].options
    attacked = {"adversarial": "pgd", "threat": "linf", "eps": 0.1}
    more = tuple(Measure("auroc", 0.6, condition={**attacked, "score": s}) for s in ("score", "approximate_mass"))
    noticed = detection(rows_of([replace(drawer, measures=(*drawer.measures, *more))]))
    assert noticed.choices[0].options[-2:] == ("log p(x)", "approximate mass")
    mixed = rows_of([drawer, synthetic.classification()[2]])
    assert "own score" in outliers(mixed).choices[1].options


class Images(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def test_pictures_stand_in_the_page_and_hostile_text_stays_text(synthetic):
    result = synthetic.drawer(conditional=True)
    page = render([result])
    images = Images(page[: page.index('<script type="application/json"')]).found
    assert len(images) == 28
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] for image in images)
    evil = '"><script>alert(1)</script>'
    pictures = tuple(replace(p, png=[evil] * len(p.png)) for p in result.pictures)
    classes = [evil] * 10
    page = render([replace(result, pictures=pictures, data={**result.data, "classes": classes})])
    own = page[: page.index('<script type="application/json"')]
    assert "<script>alert" not in own
    assert {image["src"] for image in Images(own).found} == {"data:image/png;base64," + evil}

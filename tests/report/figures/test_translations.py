"""Translated images on the page: what stands beside what, in which order, and what is said of it."""

from dataclasses import replace

import pytest

from pluriform.report.figures.losses import losses
from pluriform.report.figures.translations import translations
from pluriform.report.page import render
from pluriform.report.ranking import columns_of
from pluriform.report.row import rows_of
from pluriform.result import Curve, Measure, Pictures, Result

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def grid(name, columns=None, **parts):
    """Pictures whose text says what they are, so that their place can be checked."""
    made = []
    for part, amount in parts.items():
        own = columns if columns and part == "output" else {"sample": [float(place) for place in range(amount)]}
        made.append(Pictures(name, [f"{name}-{part}-{place}" for place in range(amount)], own, {"part": part}))
    return made


def result(form="TSIT(preset='tiny')", styled=True, **changes):
    updates = [1.0, 2.0, 4.0]
    style = {"style": 5} if styled else {}
    pictures = grid("translation", content=5, **style, output=5, truth=5)
    pictures += grid("training", {"update": updates * 2}, content=2, output=6, truth=2)
    pictures += grid("ranked", {"sample": [7.0, 3.0, 1.0, 2.0], "score": [0.9, 0.8, 0.2, 0.1]}, content=4, output=4)
    if styled:
        pictures += grid("styles", {"style": [0.0, 1.0, 2.0] * 2}, content=2, style=3, output=6)
        pictures += grid("interpolation", {"share": [0.0, 0.5, 1.0] * 2}, content=2, style=2, output=6)
    else:
        pictures += grid("styles", {"style": [0.0, 1.0, 2.0] * 2}, content=2, output=6)
    event = {"update": 340, "what": "the discriminator has won", "advice": "lower discriminator_rate"}
    columns = {"update": [2.0, 4.0], "generator": [3.0, 1.5], "discriminator": [2.0, 1.0], "told_apart": [0.5, 0.75]}
    made = Result(
        form,
        {},
        "",
        {"name": "facades", "task": "translation", "classes": []},
        0,
        measures=(Measure("psnr", 12.0, "dB", "higher"), Measure("psnr", 14.0, "dB", "higher", condition=MEAN)),
        curves=(Curve("losses", columns),),
        protocol={
            "translations": {"ranked": {"by": "label accuracy", "images": 40, "mean": 0.5}, "events": [event]},
            "cost": {"training_seconds": 300.0, "updates": 4, "images": 32},
        },
        pictures=tuple(pictures),
    )
    return replace(made, **changes)


MEAN = {"images": "mean training image"}


def galleries(*results):
    section = translations(rows_of(results))
    return {gallery.title: gallery for gallery in section.albums[0].galleries}


def rows(gallery):
    """Pictures of a gallery by rows."""
    tiles = [tile.png for tile in gallery.tiles]
    assert len(tiles) % gallery.columns == 0
    assert len(gallery.header) == gallery.columns
    return [tiles[at : at + gallery.columns] for at in range(0, len(tiles), gallery.columns)]


def test_without_translations_there_is_no_section(results):
    assert translations(rows_of(results)) is None
    assert losses(rows_of(results)) is None


def test_test_images_stand_in_rows():
    found = galleries(result(styled=False))
    first = rows(found["Test images 1 to 4"])
    assert found["Test images 1 to 4"].header == ("Content", "Output", "Truth")
    assert first[2] == ["translation-content-2", "translation-output-2", "translation-truth-2"]
    assert rows(found["Test image 5"]) == [["translation-content-4", "translation-output-4", "translation-truth-4"]]
    styled = galleries(result())
    assert styled["Test images 1 to 5"].header == ("Content", "Style", "Output", "Truth")


def test_styles_are_the_first_row_and_contents_the_first_column():
    first, _, last = rows(galleries(result())["In the styles of the first row"])
    assert first == ["", "styles-style-0", "styles-style-1", "styles-style-2"]
    assert last == ["styles-content-1", "styles-output-3", "styles-output-4", "styles-output-5"]
    drawn = rows(galleries(result(styled=False))["Several draws of each content"])
    assert drawn[0] == ["styles-content-0", "styles-output-0", "styles-output-1", "styles-output-2"]


def test_interpolation_stands_between_its_styles():
    gallery = galleries(result())["From one style to another"]
    assert gallery.header == ("Content", "One style", "0 %", "50 %", "100 %", "Another")
    assert rows(gallery)[1] == [
        "interpolation-content-1",
        "interpolation-style-0",
        *(f"interpolation-output-{place}" for place in (3, 4, 5)),
        "interpolation-style-1",
    ]


def test_training_goes_from_content_to_truth():
    gallery = galleries(result())["After so many updates"]
    assert gallery.header == ("Content", "1", "2", "4", "Truth")
    assert rows(gallery)[1] == [
        "training-content-1", "training-output-3", "training-output-4", "training-output-5", "training-truth-1",
    ]  # fmt: skip


def test_updates_that_an_earlier_version_repeated_are_shown_once():
    pictures = grid("training", {"update": [1.0, 1.0, 1.0, 2.0] * 2}, content=2, output=8)
    made = result()
    others = tuple(own for own in made.pictures if own.name != "training")
    gallery = galleries(replace(made, pictures=(*others, *pictures)))["After so many updates"]
    assert gallery.header == ("Content", "1", "2")
    assert rows(gallery) == [
        ["training-content-0", "training-output-2", "training-output-3"],
        ["training-content-1", "training-output-6", "training-output-7"],
    ]


def test_best_and_worst_are_told_apart_with_their_scores():
    found = galleries(result())
    best, worst = found["Highest label accuracy"], found["Lowest label accuracy"]
    assert rows(best) == [["ranked-content-0", "ranked-output-0"], ["ranked-content-1", "ranked-output-1"]]
    assert [tile.note for tile in best.tiles] == ["", "90.0 %", "", "80.0 %"]
    assert rows(worst)[0] == ["ranked-content-3", "ranked-output-3"]
    assert [tile.note for tile in worst.tiles] == ["", "10.0 %", "", "20.0 %"]


def test_training_and_events_are_told():
    (album,) = translations(rows_of([result()])).albums
    assert album.facts == (
        "Trained for 5 min: 4 updates of both players, which saw 32 images.",
        "At update 340: the discriminator has won (lower discriminator_rate).",
    )


def test_classes_have_a_legend():
    swatches = Pictures("classes", ["wall-png", "door-png"], {"label": [0.0, 1.0]})
    made = result()
    data = {**made.data, "classes": ["wall", "door"]}
    gallery = galleries(replace(made, data=data, pictures=(*made.pictures, swatches)))["Colours of the classes"]
    assert (gallery.header, rows(gallery)) == (("wall", "door"), [["wall-png", "door-png"]])


def test_every_loss_has_a_plot_with_a_line_a_form():
    section = losses(rows_of([result(), result("SPADE()")]))
    plots = {plot.title: plot for plot in section.views[0].plots}
    assert list(plots) == ["Generator", "Discriminator", "Told apart"]
    assert [trace["y"] for trace in plots["Told apart"].data] == [[50.0, 75.0]] * 2
    assert [trace["y"] for trace in plots["Generator"].data] == [[3.0, 1.5]] * 2
    assert plots["Told apart"].layout["shapes"][0]["y0"] == 50
    assert [row.label for row in section.legend] == ["TSIT", "SPADE"]
    assert ("TSIT", "4", "1.50", "1.00", "0.750") in section.table.rows


def test_figures_stand_beside_what_they_are_read_with():
    real = {"images": "real test images"}
    kernel = {"extractor": "random network"}
    measures = (
        Measure("pixel_accuracy", 0.4, better="higher"),
        Measure("pixel_accuracy", 0.52, better="higher", condition=real),
        Measure("kernel_distance", 0.3, better="lower", condition=kernel),
        Measure("kernel_distance", 0.02, better="lower", condition={**kernel, "images": "real training images"}),
        *result().measures,
    )
    columns = {column.title: column for column in columns_of(rows_of([result(measures=measures)]))}
    assert columns["Label accuracy"].note == "real 52.0"
    assert columns["Label accuracy"].unit == "%"
    assert columns["KD"].note.startswith("random network, real 0.02")
    assert columns["PSNR"].note == "mean image 14.0"
    assert columns["PSNR"].cells[0].value == 12.0


@pytest.mark.parametrize(("name", "shown"), [("psnr", True), ("training_seconds", False)])
def test_page_has_no_empty_table(name, shown):
    page = render([result(measures=(Measure(name, 12.0),))])
    assert page.count("translation-output-3") == 1  # The JSON to be downloaded is in base64.
    assert "One translator on facades" in page
    assert ("<caption>How good it is</caption>" in page) == shown
    assert 'src="data:image/png;base64,"' not in page

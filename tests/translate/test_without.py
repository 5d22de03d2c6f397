"""Parts of TSIT left out one by one, and a style stream in paired work."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import pluriform as pf
from pluriform.errors import ConfigError
from pluriform.evaluation.translations import measure_translations
from pluriform.translate.fade import FADEBlock
from pluriform.translate.fit import TSIT
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.generator import TSITGenerator
from pluriform.translate.spade import SPADE

SHORT = GameRecipe(updates=2, batch_size=4)


def generator(**changes):
    torch.manual_seed(0)
    network = TSITGenerator(3, 3, 3, levels=3, width=4, **changes).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # With a gain of 0.02 everything is nearly 0.
    return network


def answers(network, content, style):
    noise = network.draw_start(len(content), 16, 16, torch.Generator().manual_seed(3))
    with torch.no_grad():
        return network(content, style, noise)


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("changes", [{}, {"fade": False}, {"fadain": False}, {"fade": False, "fadain": False}])
def test_content_and_style_still_count(images, changes):
    network = generator(**changes)
    whole = answers(network, images, images)
    for other in (answers(network, images.flip(0), images), answers(network, images, images.flip(0))):
        assert float((whole - other).abs().max()) > 1e-3


def test_without_fade_content_modulates_at_its_own_pixels(images):
    network = generator(fade=False)
    assert network.content_stream is None
    assert all(isinstance(block.fade1, SPADE) for block in network.blocks)
    plain = TSITGenerator(3, 3, 3, levels=3, width=4)
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in plain.parameters())


def test_block_of_spade_is_its_formula():
    torch.manual_seed(0)
    block = FADEBlock(4, 4, 2, "instance", partial(SPADE, 4, 2, 6, "instance")).eval()
    x, m = torch.rand(2, 4, 8, 8), torch.rand(2, 2, 16, 16)
    spades = (block.fade1, block.fade2)
    y = x
    for spade, conv in zip(spades, (block.conv1, block.conv2), strict=True):
        y = conv(torch.nn.functional.leaky_relu(spade(y, m), 0.2))
    torch.testing.assert_close(block(x, m), x + y)


def test_without_fadain_strength_zero_leaves_the_style_out(images):
    network = generator(fadain=False)
    noise = network.draw_start(4, 16, 16, torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = [network(images, style, noise, alpha=0.0) for style in (images, images.flip(0))]
    torch.testing.assert_close(*found)
    assert len(network.joins) == len(network.blocks)


def test_without_fadain_only_means_of_the_style_count(images):
    """FAdaIN reads deviations too; the join does not."""
    for changes, counts in (({}, True), ({"fadain": False}, False)):
        network = generator(**changes)
        style = network.style_of(images)
        wider = tuple(replace(level, std=3 * level.std) for level in style)
        noise = network.draw_start(4, 16, 16, torch.Generator().manual_seed(3))
        with torch.no_grad():
            difference = (network(images, style, noise) - network(images, wider, noise)).abs().max()
        assert (float(difference) > 1e-3) == counts


@pytest.mark.parametrize("without", ["content", "style", "fade", "fadain"])
def test_unpaired_work_without_a_part(unpaired, without):
    form = TSIT(preset="tiny", without=without, training=SHORT).fit(None, unpaired)
    assert form.facts["without"] == without
    assert form.reads_style == (without != "style")
    contents, style = unpaired.train.inputs[:3], unpaired.train.targets[:1]
    found = form.translate(contents, style)
    if without == "content":
        torch.testing.assert_close(found[1], found[0])
        torch.testing.assert_close(found[2], found[0])
    assert found.shape == contents.shape


def test_pairs_with_a_style_read_any_reference(pairs):
    form = TSIT(preset="tiny", style=True, training=SHORT).fit(None, pairs)
    assert form.reads_style
    assert form.facts["style"] == "reference"
    assert len(form.styles) > 0
    contents = pairs.test.inputs[:2]
    one, two = (form.translate(contents, pairs.train.targets[place : place + 1]) for place in (0, 1))
    assert not torch.equal(one, two)
    torch.testing.assert_close(
        form.translate(contents, pairs.test.targets[:2])[0], form(contents, pairs.test.targets[:2])[0]
    )


def test_page_never_shows_a_form_its_own_truth(pairs):
    """With the truth as its reference a form would know what it has to say."""
    form = TSIT(preset="tiny", style=True, training=SHORT).fit(None, pairs)
    seen = []
    translate = form.translate
    form.translate = lambda content, style=None, **more: (
        seen.append((content, style)) or translate(content, style, **more)
    )
    measure_translations(form, pairs)
    asked = [(content, style) for content, style in seen if style is not None and len(style) == len(content) > 1]
    assert asked
    for content, style in asked:
        for place in range(len(content)):
            own = (pairs.test.inputs == content[place]).flatten(1).all(1).nonzero()[0, 0]
            assert not torch.equal(style[place], pairs.test.targets[own])


def test_label_maps_with_a_style_and_without_fade(labelled):
    form = TSIT(preset="tiny", style=True, without="fade", training=SHORT).fit(None, labelled)
    assert form.translate(labelled.test.inputs).shape == labelled.test.targets.shape


def test_refusals(pairs):
    for without, words in (("content", "unpaired work"), ("style", "style stream"), ("fadain", "style stream")):
        with pytest.raises(ConfigError, match=words):
            TSIT(preset="tiny", without=without, training=SHORT).fit(None, pairs)


def test_forms_without_parts_are_stored(unpaired, tmp_path):
    form = TSIT(preset="tiny", without="fadain", training=SHORT).fit(None, unpaired)
    again = pf.load_form(form.save(tmp_path / "form"))
    contents = unpaired.train.inputs[:2]
    assert torch.equal(again.translate(contents), form.translate(contents))

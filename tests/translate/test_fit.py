import logging
from dataclasses import replace

import pytest
import torch

import pluriform as pf
from pluriform.errors import ConfigError, DivergenceError, LabelError, RunConflictError, ShapeError
from pluriform.training.seeds import derive_seed
from pluriform.translate.album import Album
from pluriform.translate.fit import TSIT
from pluriform.translate.game import Game
from pluriform.translate.game_recipe import GameRecipe
from pluriform.translate.rivals.spade import SPADE
from pluriform.translate.spectral_norm import SpectralConv2d


def short(updates=3, **options):
    return GameRecipe(updates=updates, **({"batch_size": 4} | options))


def tsit(updates=3, **options):
    training = options.pop("training", short(updates))
    return TSIT(preset="tiny", training=training, **options)


def test_overfits_one_pair(pairs):
    one = replace(pairs, train=pf.Split(pairs.train.inputs[:1], pairs.train.targets[:1]))
    training = short(200, batch_size=1, flip=0, generator_rate=4e-3, discriminator_rate=1e-4, ema=None, decay=0.8)
    form = tsit(training=training, norm="instance", l1=100, feature_matching=0).fit(None, one)
    content, truth = one.train.batch(torch.arange(1))
    error = (form.translate(content) - truth).abs().mean()
    assert 2 * error < 0.06  # In [-1, 1]; the mean colour gives 0.5.
    assert form.history["l1"][-1] < 0.1 * form.history["l1"][0]


def weights(form):
    return {name: tensor.clone() for name, tensor in form.state_dict().items()}


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "labelled"])
def test_resumed_equals_uninterrupted(kind, request, tmp_path, monkeypatch):
    data = request.getfixturevalue(kind)
    method = tsit(training=short(8, r1=1.0, crop=12 if kind == "pairs" else None), encoder=kind == "labelled")
    whole = method.fit(None, data, seed=5)
    monkeypatch.setattr("pluriform.training.iterations.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("pluriform.training.iterations.CHECKPOINT_SHARE", 1e9)
    step = Game.step

    def killed(game, update):
        if update == 5:
            raise MemoryError("killed")
        return step(game, update)

    monkeypatch.setattr(Game, "step", killed)
    with pytest.raises(MemoryError, match="killed"):
        method.fit(None, data, seed=5, run=tmp_path / "run")
    monkeypatch.setattr(Game, "step", step)
    resumed = method.fit(None, data, seed=5, run=tmp_path / "run")
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.history == resumed.history
    with pytest.raises(RunConflictError, match="preset"):
        replace(method, preset="small").fit(None, data, seed=5, run=tmp_path / "run")


def test_save_and_load_give_the_same(unpaired, tmp_path):
    form = tsit().fit(None, unpaired)
    loaded = pf.load_form(form.save(tmp_path / "form"))
    content = unpaired.test.inputs
    assert torch.equal(form.translate(content, seed=4), loaded.translate(content, seed=4))
    assert loaded.origin["method"]["class"].endswith("TSIT")
    assert loaded.facts == form.facts
    assert form.cost["images"] == 12


def test_same_seed_same_weights_and_data_unchanged(pairs):
    before = [tensor.clone() for tensor in (pairs.train.inputs, pairs.train.targets)]
    state = torch.get_rng_state()
    first, second, third = (tsit().fit(None, pairs, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, (pairs.train.inputs, pairs.train.targets), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def test_tasks_go_by_the_data(pairs, unpaired, labelled):
    for data, task, start in (
        (pairs, "paired", "content"),
        (unpaired, "style-transfer", "noise"),
        (labelled, "semantic", "content"),
    ):
        facts = tsit(1).fit(None, data).facts
        assert (facts["task"], facts["start"], facts["norm"]) == (task, start, "batch")
    assert tsit(1, training=short(1, batch_size=2)).fit(None, pairs).facts["norm"] == "joint"


def test_styles_and_draws(unpaired):
    form = tsit().fit(None, unpaired)
    content, style = unpaired.test.inputs[:3], unpaired.test.targets[:1]
    first, second = form.draw(content, 2)
    assert (first - second).abs().max() > 1e-4
    assert torch.equal(form.translate(content, style, seed=1), form.translate(content, style, seed=1))
    single = torch.cat([form.translate(image[None], style) for image in content])
    torch.testing.assert_close(form.translate(content, style), single, atol=1e-5, rtol=0)
    between = form.interpolate(content, style, 1 - style, (0, 0.5, 1))
    torch.testing.assert_close(between[0], form.translate(content, style), atol=1e-5, rtol=0)
    torch.testing.assert_close(between[2], form.translate(content, 1 - style), atol=1e-5, rtol=0)
    assert (between[1] - between[0]).abs().max() > 0
    assert float(form(content, style).detach().min()) >= 0
    style.requires_grad_(True)
    form(content, style).sum().backward()
    assert style.grad.abs().sum() > 0


def test_draws_take_the_style_of_every_remembered_image_before_one_comes_again(unpaired):
    form = tsit().fit(None, unpaired)
    count = len(form.styles)
    taken = form.references(2 * count + 1, seed=3)
    for begin in (0, count):
        places = [int((form.styles == style).flatten(1).all(1).nonzero()[0]) for style in taken[begin : begin + count]]
        assert sorted(places) == list(range(count))
    content = unpaired.test.inputs[:2]
    drawn = form.draw(content, 3, seed=3)
    assert torch.equal(drawn[1], form.translate(content, taken[1], seed=derive_seed(3, "draw", 1)))
    assert all(torch.equal(one, two) for one, two in zip(taken, form.references(count, seed=3), strict=False))


def test_styles_between_leave_the_form_as_it_is(unpaired):
    form = tsit().fit(None, unpaired)
    content, style = unpaired.test.inputs[:3], unpaired.test.targets[:1]
    expected = form.interpolate(content, style, 1 - style, (0, 0.5))
    sizes = []
    form.painter.register_forward_hook(lambda part, inputs, images: sizes.append(len(images)))
    form.train()
    form.painter.network.last.eval()
    before, modes = weights(form), [part.training for part in form.modules()]
    found = form.interpolate(content, style, 1 - style, (0, 0.5), batch_size=2)
    assert sizes == [2, 2, 1, 1]
    assert [part.training for part in form.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(form).items())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    several = torch.cat([style, 1 - style, style])
    mixed = form.interpolate(content, several, style, (0,), batch_size=2)[0]
    torch.testing.assert_close(mixed, form.translate(content, several), atol=1e-5, rtol=0)
    assert form.interpolate(content, style, style, ()) == []


def test_no_style_in_pairs(pairs):
    form = tsit().fit(None, pairs)
    content = pairs.test.inputs
    assert torch.equal(form.translate(content, content), form.translate(content, 1 - content))
    with pytest.raises(ConfigError, match="several styles; got one of one"):
        form.draw(content, 2)
    with pytest.raises(ConfigError, match="a translator that reads styles"):
        form.interpolate(content, content[:1], content[:1], (0,))


def test_latent_vectors_give_several_answers(labelled):
    form = tsit(encoder=True).fit(None, labelled)
    assert form.facts["weights"]["kl"] == 0.05
    assert len(form.history["kl"]) == 3
    first, second = form.draw(labelled.test.inputs, 2)
    assert (first - second).abs().max() > 1e-5


def test_encoder_and_style_together(pairs):
    form = tsit(encoder=True, style=True).fit(None, pairs)
    assert (form.facts["start"], form.facts["style"]) == ("latent", "reference")
    content, style = pairs.test.inputs, pairs.test.targets[:1]
    by_style = form.translate(content, style) - form.translate(content, 1 - style)
    by_start = form.translate(content, style, seed=1) - form.translate(content, style, seed=2)
    assert by_style.abs().max() > 1e-5
    assert by_start.abs().max() > 1e-5
    assert len(form.history["kl"]) == 3


def test_album_shows_the_training(pairs):
    form = tsit(20).fit(None, pairs)
    assert form.moments == [1, 2, 5, 10, 20]
    assert form.snapshots.shape == (5, 2, 3, 16, 16)
    last = (form.translate(pairs.validation.inputs) * 255).round()
    torch.testing.assert_close(form.snapshots[-1].float(), last, atol=1, rtol=0)
    assert (form.snapshots[0].int() - form.snapshots[-1].int()).abs().max() > 0


def sigmas(form):
    """Of every spectral norm, the sigma in use over the largest singular value."""
    found = {}
    for name, part in form.named_modules():
        if isinstance(part, SpectralConv2d):
            matrix = part.weight.detach().flatten(1)
            found[name] = float(part.u @ matrix @ part.v) / float(torch.linalg.svdvals(matrix)[0])
    return found


def test_averaged_weights_are_divided_by_their_own_sigma(pairs, monkeypatch):
    in_album = []
    keep = Album.keep

    def seen(album, done, generator):
        in_album.append(sigmas(generator))
        keep(album, done, generator)

    monkeypatch.setattr(Album, "keep", seen)
    form = tsit(60, training=short(60, generator_rate=1e-3)).fit(None, pairs, seed=1)
    assert len(in_album) == len(form.moments)
    for found in (sigmas(form), *in_album):
        assert found
        assert all(0.98 < share < 1.0001 for share in found.values()), found


def test_an_average_in_the_album_leaves_the_training_alone(pairs, monkeypatch):
    method = tsit(training=short(9))
    seen = method.fit(None, pairs)
    monkeypatch.setattr(Album, "keep", lambda album, done, generator: None)
    assert seen.history == method.fit(None, pairs).history


def test_published_norm_at_batch_one_warns(unpaired, caplog):
    tsit(1, norm="batch", training=short(1, batch_size=1)).fit(None, unpaired)
    assert "takes the style away" in caplog.text


def test_divergence_is_told(pairs):
    with pytest.raises(DivergenceError, match="expected a finite .*lower the rates .now 1e.30"):
        tsit(20, training=short(20, generator_rate=1e30)).fit(None, pairs)


def test_log_has_every_loss(pairs, tmp_path):
    tsit(4).fit(None, pairs, run=tmp_path / "run")
    text = (tmp_path / "run" / "log.jsonl").read_text()
    for name in ("generator", "adversarial", "feature_matching", "l1", "discriminator", "told_apart"):
        assert f'"{name}"' in text


def test_bad_input(pairs, unpaired, labelled):
    digits = pf.load(torch.rand(20, 1, 16, 16), torch.arange(20) % 2)
    with pytest.raises(ConfigError, match="data for translation; got classification"):
        tsit().fit(None, digits)
    with pytest.raises(ConfigError, match="pairs of images; got arrays, whose sides are no pairs"):
        tsit(task="paired").fit(None, unpaired)
    with pytest.raises(ConfigError, match="label maps as inputs"):
        tsit(task="semantic").fit(None, pairs)
    with pytest.raises(ConfigError, match="expected several styles"):
        tsit(task="multi-modal").fit(None, unpaired)
    with pytest.raises(ConfigError, match="a crop of at most 16 pixels"):
        tsit(training=short(crop=32)).fit(None, pairs)
    for method in (tsit(encoder=True, training=short(crop=8)), SPADE(encoder=True, training=short(crop=8))):
        with pytest.raises(ConfigError, match="whole images where an encoder gives the start; got crop=8 for 16x16"):
            method.fit(None, labelled)
    for task, data in (("auto", replace(labelled, paired=False)), ("style-transfer", labelled)):
        with pytest.raises(ConfigError, match="pictures as contents of style-transfer; got arrays, whose inputs"):
            tsit(task=task).fit(None, data)
    refused = "pairs where an encoder gives the start; got encoder=True for style-transfer, which starts from noise"
    for data in (unpaired, pairs):
        with pytest.raises(ConfigError, match=refused):
            tsit(encoder=True, task="style-transfer").fit(None, data)
    with pytest.raises(ConfigError, match=refused):
        tsit(encoder=True).fit(None, unpaired)
    with pytest.raises(ConfigError, match="levels for 16x16 pixels"):
        tsit(levels=8).fit(None, pairs)
    with pytest.raises(ConfigError, match="l1 of 0 or more, or None; got -1"):
        TSIT(l1=-1)
    wrong = replace(labelled, classes=("sky", "sun"))
    with pytest.raises(LabelError, match="label ids 0..1 for 2 classes; got 2"):
        tsit().fit(None, wrong)


def test_the_folder_of_a_refused_fit_takes_the_advice(pairs, tmp_path):
    with pytest.raises(ConfigError, match="a crop of at most 16 pixels"):
        tsit(training=short(crop=32)).fit(None, pairs, run=tmp_path / "run")
    form = tsit(training=short(crop=16)).fit(None, pairs, run=tmp_path / "run")
    with pytest.raises(RunConflictError, match=r"method.training.crop=16; got method.training.crop=32 \("):
        tsit(training=short(crop=32)).fit(None, pairs, run=tmp_path / "run")
    assert torch.equal(pf.load_form(tmp_path / "run").snapshots, form.snapshots)


def test_bad_images_at_use(labelled, unpaired):
    form = tsit(1).fit(None, labelled)
    with pytest.raises(ShapeError, match=r"images .batch, 1, height, width.; got .2, 3, 16, 16."):
        form.translate(torch.rand(2, 3, 16, 16))
    with pytest.raises(LabelError, match="label ids 0..2 for 3 classes; got 7"):
        form.translate(torch.full((1, 1, 16, 16), 7.0))
    form = tsit(1).fit(None, unpaired)
    with pytest.raises(ShapeError, match="1 or 4 styles; got 3"):
        form.translate(torch.rand(4, 3, 16, 16), torch.rand(3, 3, 16, 16))
    with pytest.raises(ShapeError, match="a floating-point tensor; got torch.int64"):
        form.translate(torch.zeros(4, 3, 16, 16, dtype=torch.int64))


def test_recipe_says_what_is_wrong():
    for name, value in (("updates", 0), ("ema", 1.0), ("beta1", 1.0), ("r1", -1), ("decay", 2)):
        with pytest.raises(ConfigError, match=f"expected {name}"):
            GameRecipe(**{name: value})
    recipe = GameRecipe(updates=100, decay=0.5)
    assert [recipe.factor(update) for update in (0, 50, 75, 99)] == [1, 1, 0.5, 0.02]
    assert GameRecipe(updates=10, decay=0).factor(9) == 1


def test_bfloat16_runs(pairs):
    logging.getLogger("pluriform")
    form = tsit(training=short(3, precision="bf16")).fit(None, pairs)
    assert all(parameter.dtype == torch.float32 for parameter in form.parameters())
    assert form.translate(pairs.test.inputs).isfinite().all()


def test_several_styles_and_odd_images():
    generator = torch.Generator().manual_seed(0)
    contents, targets = torch.rand(12, 1, 18, 26, generator=generator), torch.rand(16, 5, 18, 26, generator=generator)
    data = pf.load(contents, targets, task="translation", validation=2)
    styles = torch.arange(len(data.train.targets)) % 2
    data = replace(data, train=replace(data.train, styles=styles), styles=("day", "night"))
    form = tsit(2).fit(None, data)
    assert form.facts["task"] == "multi-modal"
    assert form.styles.shape[1:] == (5, 18, 26)
    small = data.test.targets[:1, :, :13, :17]
    assert form.translate(data.test.inputs, small).shape == (len(data.test.inputs), 5, 18, 26)
    contents, targets = contents[:10], targets[..., :13, :17]
    sides = pf.load(contents, targets, task="translation")
    with pytest.raises(ConfigError, match="both sides of one size; got images of 18x26 and 13x17"):
        tsit(2).fit(None, sides)
    assert tsit(training=short(2, crop=13)).fit(None, sides).facts["levels"] == 2

import pytest
import torch

import pluriform as pf
from pluriform.energy.support import SupportModel
from pluriform.errors import ConfigError
from pluriform.training.recipe import Recipe


@pytest.fixture(scope="module")
def form() -> SupportModel:
    data = pf.load("digits")
    training = Recipe(epochs=5, learning_rate=1e-3, schedule="constant")
    return pf.DAT(training=training, pretraining=5, attack_steps=3, threshold=0.6).fit(pf.nets.build("mlp", data), data)


def test_samples_are_of_their_class_and_within_the_bounds(form):
    for label in (0, 4, 7):
        samples = form.sample(20, label=label, steps=20)
        assert samples.shape == (20, 1, 8, 8)
        assert samples.min() >= 0
        assert samples.max() <= 1
        assert (form.predict(samples).mean.argmax(-1) == label).all()


def test_without_a_label_there_are_many_classes(form):
    found = form.predict(form.sample(200, steps=20)).mean.argmax(-1)
    assert len(found.unique()) == 10


def test_no_steps_give_seeds_and_each_step_goes_its_length(form):
    seeds, near = form.sample(30, label=2, seed=5, steps=0), form.sample(30, label=2, seed=5, steps=1)
    far = form.sample(30, label=2, seed=5, steps=10)
    assert not torch.equal(seeds, form.sample(30, label=2, seed=6, steps=0))
    assert ((near - seeds).flatten(1).norm(dim=1) <= 0.1 + 1e-5).all()  # Bounds may shorten it.
    assert (near - seeds).flatten(1).norm(dim=1).min() > 0.02
    assert (far - seeds).flatten(1).norm(dim=1).min() > 0.2
    logits = [form(x).detach()[:, 2] for x in (seeds, near, far)]
    assert (logits[1] > logits[0]).all()
    assert (logits[2] > logits[1]).all()


def test_the_seed_decides_and_the_default_is_the_length_of_the_training(form):
    assert form.sampler.steps > 0
    assert torch.equal(form.sample(7, seed=3), form.sample(7, seed=3, steps=form.sampler.steps))
    assert not torch.equal(form.sample(7, seed=3), form.sample(7, seed=4))


def test_refined_inputs_score_higher(form):
    noise = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (form.predict(form.refine(noise, steps=10)).score > form.predict(noise).score).all()


def test_loaded_forms_draw_the_same(form, tmp_path):
    again = pf.load_form(form.save(tmp_path / "form"))
    assert type(again) is SupportModel
    assert torch.equal(form.sample(5, label=1, seed=2), again.sample(5, label=1, seed=2))


def test_what_is_refused(form):
    with pytest.raises(ConfigError, match="keeps no chains.*fresh=False"):
        form.sample(3, fresh=False)
    with pytest.raises(ConfigError, match=r"0\.\.9.*label=10"):
        form.sample(3, label=10)
    with pytest.raises(ConfigError, match="n=0, label=None"):
        form.sample(0)

"""What HyperGAN refuses, and in which words."""

import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.ensemble.heads import choice as choice_file
from pluriform.ensemble.hypergan.fit import HyperGAN
from pluriform.ensemble.target import layers_of
from pluriform.errors import ConfigError, DivergenceError, MemoryBudgetError
from pluriform.training.recipe import Recipe

SHORT = Recipe(epochs=2, batch_size=50, learning_rate=1e-3)
SMALL = {"members": 4, "networks": 3, "noise_size": 8, "code_size": 4, "hidden": 12, "training": SHORT}


@pytest.fixture(scope="module")
def digits() -> Data:
    whole = pf.load("digits", seed=0)
    counts = {"train": 120, "validation": 30, "test": 20}
    return dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def norms():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def test_a_training_that_diverges_says_so(digits):
    recipe = dataclasses.replace(SHORT, learning_rate=1e8, epochs=5)
    with pytest.raises(DivergenceError, match=r"expected a finite loss.*learning rate"):
        HyperGAN(calling="vmap", **SMALL | {"training": recipe}).fit(mlp(), digits)


def test_a_batch_of_one_before_batch_norm_is_refused(digits):
    recipe = dataclasses.replace(SHORT, batch_size=1)
    with pytest.raises(ConfigError, match=r"at least 2 samples a step for BatchNorm.*batch_size=1"):
        HyperGAN(**SMALL | {"training": recipe}).fit(norms(), digits)


def test_one_validation_sample_before_batch_norm_is_refused(digits):
    data = dataclasses.replace(digits, validation=Split(*digits.validation.batch(torch.arange(1))))
    with pytest.raises(ConfigError, match=r"at least 2 samples a step for BatchNorm.*1 validation sample"):
        HyperGAN(**SMALL).fit(norms(), data)
    assert HyperGAN(**SMALL).fit(mlp(), data).size == 4


def test_statistics_of_the_given_network_need_its_weights(digits):
    with pytest.raises(ConfigError, match=r"initialisation='given' where draws share.*norms='recalibrate'"):
        HyperGAN(norms="shared", **SMALL).fit(norms(), digits)
    net = norms()
    net[1].running_mean.fill_(0.25)
    form = HyperGAN(norms="shared", initialisation="given", **SMALL).fit(net, digits)
    assert torch.equal(form.materialize(1)[1].running_mean, torch.full((4,), 0.25))
    assert form.predict(digits.test.inputs).members.isfinite().all()


def test_a_target_without_trainable_parameters_is_refused(digits):
    with pytest.raises(ConfigError, match=r"a module with trainable parameters.*none of them trainable"):
        HyperGAN(**SMALL).fit(mlp().requires_grad_(False), digits)


def test_a_head_that_does_not_fit_the_memory_names_those_that_do(digits, monkeypatch):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
    needed = choice_file.choose_head(layers_of(wide), 4, 12, members=3, last=layers_of(wide, "last")).bytes
    assert needed["last-layer"] < needed["low-rank"] < needed["full"]
    monkeypatch.setattr(choice_file, "_limit", lambda *_: needed["low-rank"] - 1)
    with pytest.raises(MemoryBudgetError, match=r"generator of 4,510 weights.*use head='.*last-layer") as caught:
        HyperGAN(head="full", **SMALL).fit(wide, digits)
    assert "low-rank" not in str(caught.value)
    assert HyperGAN(head="auto", **SMALL).fit(wide, digits).choices["head"]["mode"] in ("rank-one", "last-layer")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"members": 0}, "members: at least 1"),
        ({"networks": 0}, "networks: at least 1"),
        ({"beta": -1}, "beta: 0 or more"),
        ({"shared_fraction": 1}, r"shared_fraction: in \[0, 1\)"),
        ({"code_size": 0}, "code_size: at least 1"),
        ({"noise_size": 0}, "noise_size: at least 1"),
        ({"hidden": 1}, "hidden: at least 2"),
        ({"diversity": "latent_gan"}, "diversity: one of latent-gan, svgd"),
        ({"head": "huge"}, "head: one of auto, full"),
        ({"batches": "mine"}, "batches: one of own, shared"),
        ({"norms": "none"}, "norms: one of recalibrate, shared"),
        ({"calling": "fast"}, "calling: one of auto, vmap"),
        ({"initialisation": "zero"}, "initialisation: one of hyperfan-in"),
        ({"repulsion": -0.1}, "repulsion: 0 or more"),
    ],
)
def test_wrong_arguments(wrong, words):
    method = HyperGAN()
    for name, value in wrong.items():
        object.__setattr__(method, name, value)  # Past the check of annotations, which users do not have.
    with pytest.raises(ConfigError, match=words):
        method.__post_init__()

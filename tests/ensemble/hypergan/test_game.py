"""The training of a generator: its batches, its choice of a calling, its record and its curves."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.ensemble.calling import Calling
from pluriform.ensemble.heads.choice import make_head
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.hypergan import game as game_file
from pluriform.ensemble.hypergan.discriminator import Discriminator
from pluriform.ensemble.hypergan.game import Game, GameTraining
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.mixer import Mixer
from pluriform.ensemble.hypergan.objectives import LatentGAN
from pluriform.ensemble.target import layers_of
from pluriform.method import FitContext
from pluriform.runs import Run
from pluriform.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=40)


@pytest.fixture(scope="module")
def data():
    whole = pf.load("digits", seed=0)
    return dataclasses.replace(
        whole,
        **{name: Split(*getattr(whole, name).batch(torch.arange(100))) for name in ("train", "validation", "test")},
    )


def training(data, calling="auto", run=None, own=True, networks=6):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 10))
    layers = layers_of(network)
    head = make_head("full", layers, 5, 12, deviations_of(layers))
    generator = WeightGenerator(Mixer(8, 2, 5, 12), head, dict(network.named_parameters()))
    game = Game(network, generator, LatentGAN(Discriminator(5, 12), 0.1))
    context = FitContext(3, run, torch.device("cpu"))
    return GameTraining(game, RECIPE, data, context, networks=networks, own_batches=own, calling=calling)


def test_every_network_has_batches_of_its_own_or_all_the_same(data):
    own = next(training(data).feed.batches(0))
    assert own.inputs.shape == (6, 40, 1, 8, 8)
    assert own.targets.shape == (6, 40)
    assert not torch.equal(own.inputs[0], own.inputs[1])
    shared = next(training(data, own=False).feed.batches(0))
    assert shared.inputs.shape == (40, 1, 8, 8)


@pytest.mark.parametrize(("asked", "chunk"), [("vmap", 6), ("chunk", 4), ("loop", 1)])
def test_a_calling_that_is_asked_for_is_taken(data, asked, chunk):
    calling = training(data, asked).setting.calling
    assert (calling.way, calling.chunk, calling.reason) == (asked, chunk, "as asked")


def test_the_measured_calling_is_on_record_and_read_again(data, tmp_path, monkeypatch):
    with Run(tmp_path / "run", {}) as run:
        first = training(data, run=run).setting.calling
        assert "measured" in first.reason
        assert run.read_json("calling.json") == first.to_json()
        other = Calling("chunk", 3, False, "of another machine")
        run.write_json("calling.json", other.to_json())
        monkeypatch.setattr(game_file, "measured_calling", lambda *_: pytest.fail("measured again"))
        assert training(data, run=run).setting.calling == other


def test_measuring_trains_nothing(data):
    made = training(data, "loop")
    before = copy.deepcopy(made.game.state_dict())
    random = torch.get_rng_state()
    made._calling("auto", made.setting.loss, 6, True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, made.game.state_dict()[name]) for name, tensor in before.items())


def test_a_training_moves_both_sides_and_counts_every_network(data):
    made = training(data, "vmap")
    before = copy.deepcopy(made.game.state_dict())
    cost = made.run()
    moved = {
        name.split(".")[0] for name, tensor in made.game.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"generator", "objective"}
    assert cost.steps == 6  # 100 samples in batches of 40, twice.
    assert cost.sample_passes == 6 * 6 * 40
    assert {"loss", "task_loss", "discriminator_loss", "validation_loss", "disagreement"} <= set(made.history)
    assert {len(column) for column in made.history.values()} == {2}

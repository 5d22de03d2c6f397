"""Figures on the validation split, each against the definition written out by hand."""

import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.ensemble.drawn import draw_seeds
from pluriform.ensemble.heads.choice import make_head
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.hypergan import selection as selection_file
from pluriform.ensemble.hypergan.fit import HyperGAN
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.mixer import Mixer, moment_error
from pluriform.ensemble.hypergan.selection import DRAWS, Selection
from pluriform.ensemble.target import layers_of
from pluriform.graph.parameters import call
from pluriform.training.early_stopping import EarlyStopping
from pluriform.training.recipe import Recipe


def pair(network):
    layers = layers_of(network)
    head = make_head("full", layers, 5, 12, deviations_of(layers))
    with torch.no_grad():
        for part in head.parameters():
            part += 0.3 * torch.randn_like(part)
    return WeightGenerator(Mixer(8, len(layers), 5, 12), head, dict(network.named_parameters()))


def by_hand(network, generator, seeds, inputs):
    with torch.no_grad():
        weights = generator.draw(seeds)
        members = [{name: part[i] for name, part in weights.items()} for i in range(len(seeds))]
        return torch.stack([call(network, own, inputs) for own in members]), weights


@pytest.mark.parametrize("samples", [40, 700])
def test_classification(samples):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    generator = pair(network)
    split = Split(torch.randn(samples, 6), torch.randint(3, (samples,)))
    found = Selection(network, generator, split, "classification", 4).assess()
    outputs, weights = by_hand(network.eval(), generator, draw_seeds(DRAWS, 4), split.inputs)
    p = outputs.softmax(-1)
    mean, index = p.mean(0), torch.arange(samples)
    more = found.more
    assert found.loss.shape == found.accuracy.shape == (1,)
    assert float(found.loss) == pytest.approx(float(-mean[index, split.targets].log().mean()), rel=1e-5)
    assert float(found.accuracy) == pytest.approx(float((mean.argmax(-1) == split.targets).float().mean()))
    assert more["member_nll"] == pytest.approx(float(-p[:, index, split.targets].log().mean()), rel=1e-5)
    assert more["member_nll"] > float(found.loss)
    assert more["member_accuracy"] == pytest.approx(float((p.argmax(-1) == split.targets).float().mean()), rel=1e-5)
    guess = p.argmax(-1)
    pairs = [(guess[a] != guess[b]).float().mean() for a in range(DRAWS) for b in range(a)]
    assert more["disagreement"] == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-4)
    information = -(mean * mean.log()).sum(-1) + (p * p.log()).sum(-1).mean(0)
    assert more["mutual_information"] == pytest.approx(float(information.mean()), rel=1e-4)
    norms = [weights[name].flatten(1).norm(dim=1) for name in ("0.weight", "3.weight")]
    spread = torch.stack([norm.std() / norm.mean() for norm in norms]).mean()
    assert more["weight_spread"] == pytest.approx(float(spread), rel=0.05)
    codes = generator.codes(generator.noise_of(draw_seeds(80, 0)))
    assert more["code_moments"] == pytest.approx(moment_error(codes).item(), rel=1e-4)
    assert set(found.log()) == {"validation_loss", "validation_accuracy", *more}


def test_regression():
    torch.manual_seed(0)
    network = nn.Linear(6, 2)
    generator = pair(network)
    split = Split(torch.randn(30, 6), torch.randn(30, 2))
    found = Selection(network, generator, split, "regression", 4).assess()
    outputs, _ = by_hand(network, generator, draw_seeds(DRAWS, 4), split.inputs)
    assert float(found.loss) == pytest.approx(float((outputs.mean(0) - split.targets).square().mean()), rel=1e-5)
    assert found.more["member_loss"] == pytest.approx(float((outputs - split.targets).square().mean()), rel=1e-5)
    assert found.accuracy is None


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("samples", [501, 1001])
def test_no_lone_sample_is_left_before_batch_norm(samples, momentum):
    """And draws are computed together where the running statistics allow it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5, momentum=momentum), nn.Tanh(), nn.Linear(5, 3))
    split = Split(torch.randn(samples, 2), torch.randint(3, (samples,)))
    selection = Selection(network, pair(network), split, "classification", 4)
    assert selection.assess().loss.isfinite().all()
    assert (selection.calling.way == "loop") == (momentum is None)


def test_batch_statistics_are_those_of_the_validation_batch_and_kept_nowhere():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    generator = pair(network)
    split = Split(torch.randn(40, 6), torch.randint(3, (40,)))
    selection = Selection(network, generator, split, "classification", 4)
    first = selection.assess()
    assert torch.equal(network[1].running_mean, torch.zeros(5))
    assert torch.equal(first.loss, selection.assess().loss)
    outputs, _ = by_hand(network.train(), generator, draw_seeds(DRAWS, 4), split.inputs)
    expected = -outputs.softmax(-1).mean(0)[torch.arange(40), split.targets].log().mean()
    assert float(first.loss) == pytest.approx(float(expected), rel=1e-4)


def test_the_split_is_a_fixed_part_in_random_order(monkeypatch):
    monkeypatch.setattr(selection_file, "SAMPLES", 25)
    network = nn.Linear(2, 3)
    split = Split(torch.arange(80.0).view(40, 2), torch.randint(3, (40,)))
    first, again, other = (Selection(network, pair(network), split, "classification", seed) for seed in (1, 1, 2))
    assert len(first.inputs) == 25
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    rows = {tuple(row.tolist()) for row in first.inputs}
    assert len(rows) == 25


def test_the_epoch_of_the_lowest_ensemble_loss_is_kept(monkeypatch):
    """Of all epochs that were validated, the result is the generator of the best."""
    whole = pf.load("digits", seed=0)
    counts = {"train": 100, "validation": 60, "test": 20}
    data = dataclasses.replace(
        whole, **{name: Split(*getattr(whole, name).batch(torch.arange(n))) for name, n in counts.items()}
    )
    losses, states = [], []
    real = EarlyStopping.update

    def keep(self, loss, weights):
        losses.append(float(loss))
        states.append({name: tensor.detach().clone() for name, tensor in weights.items()})
        return real(self, loss, weights)

    monkeypatch.setattr(EarlyStopping, "update", keep)
    recipe = Recipe(epochs=30, batch_size=50, learning_rate=0.05, patience=3, schedule="constant")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    form = HyperGAN(members=2, networks=3, noise_size=8, code_size=4, hidden=12, training=recipe).fit(net, data)
    assert losses == pytest.approx(form.history["validation_loss"], rel=1e-6)
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best < len(losses) - 1
    assert len(losses) == best + 4
    for name, tensor in form.source.state_dict().items():
        assert torch.equal(tensor, states[best][f"generator.{name}"])

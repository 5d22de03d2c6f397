"""Parts of the energy reproductions that can be wrong without anyone seeing it."""

import importlib
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import pluriform as pf

FOLDER = Path(__file__).parents[2] / "reproductions"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", ["mixture", "rings"])
def test_densities_of_the_plane_are_those_of_their_points(name):
    toy = importlib.import_module("energy_toy")
    density = toy.DENSITIES[name]
    axis = torch.linspace(-6, 6, 1200, dtype=torch.float64)  # No point at 0, where a ring has a pole.
    cell = float(axis[1] - axis[0]) ** 2
    where = torch.cartesian_prod(axis, axis)
    log_density = density.log_density(where)
    assert float(log_density.exp().sum()) * cell == pytest.approx(1.0, abs=2e-3)
    entropy = -float((log_density.exp() * log_density).sum()) * cell
    points = density.draw(20_000, torch.Generator().manual_seed(0)).flatten(0, 1).double()
    assert -float(density.log_density(points).mean()) == pytest.approx(entropy, abs=0.02)


def test_the_twin_of_the_table_has_no_density():
    table = importlib.import_module("energy_table")
    chosen = Namespace(epochs=None)
    plain, joint = (table.method("digits", kind, chosen) for kind in ("training", "jem"))
    assert plain.terms.plain
    assert plain.input_noise == 0
    assert not joint.terms.plain
    assert (plain.training, plain.smooth) == (joint.training, joint.smooth)


def test_signed_gap_is_confidence_less_accuracy():
    table = importlib.import_module("energy_table")
    probabilities = torch.tensor([[0.8, 0.2]]).repeat(10, 1)
    found = table.calibration(probabilities, torch.tensor([0] * 6 + [1] * 4))
    assert found["signed_gap"] == pytest.approx(20.0, abs=1e-4)
    assert found["ece_15"] == pytest.approx(20.0, abs=1e-4)
    assert found["nll"] == pytest.approx(-(0.6 * math.log(0.8) + 0.4 * math.log(0.2)), rel=1e-5)


def test_the_injection_raises_the_rate_of_fifty_updates_and_takes_it_back():
    study = importlib.import_module("energy_stability")
    data = pf.load("digits", validation=200, seed=0)
    network = study.network("digits", data, 0)
    from pluriform.training import loop as loop_file

    plain, rates = loop_file.Loop._set_learning_rate, []
    with study.Injection():
        raised = loop_file.Loop._set_learning_rate

        def noted(loop):
            raised(loop)
            rates.append(loop.optimizer.param_groups[0]["lr"])

        loop_file.Loop._set_learning_rate = noted
        recipe = pf.Training(epochs=10, batch_size=64, learning_rate=1e-4, schedule="constant", warmup=0.0)
        recipe.fit(network, data, seed=0)
    assert loop_file.Loop._set_learning_rate is plain
    assert sum(rate > 5e-3 for rate in rates) == study.INJECTED
    assert rates[len(rates) // 2] == pytest.approx(1e-2)


def test_labels_are_kept_evenly_and_both_kinds_make_as_many_updates(shared_data):
    labels = importlib.import_module("energy_labels")
    data = labels.load(100, 0, None)
    assert data.train.targets.bincount().tolist() == [10] * 10
    assert len(data.unlabelled) == 58_900
    chosen = Namespace(epochs=2, rate=2e-3)
    made = {kind: labels.method(kind, data, chosen) for kind in labels.KINDS}
    updates = {
        "training": made["training"].training.epochs * -(-len(data.train) // labels.BATCH),
        "jem": made["jem"].training.epochs * -(-(len(data.train) + len(data.unlabelled)) // labels.BATCH),
    }
    assert updates["training"] == pytest.approx(updates["jem"], abs=1)

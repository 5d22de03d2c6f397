"""Pure parts of the HyperGAN reproductions: targets, splits, figures of groups of members, coverage, the final JSON."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split

FOLDER = Path(__file__).parents[2] / "reproductions"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def script(name: str):
    return importlib.import_module(f"hypergan_{name}")


def probabilities(members: int, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(members, count, 10, generator=generator)).softmax(-1)


def test_targets_have_the_published_sizes():
    networks = script("networks")
    convolutions = (1 * 25 + 1) * 32 + (32 * 25 + 1) * 32
    assert networks.parameters_of(networks.mnist_network(0)) == convolutions + 513 * 10 == 31_594
    assert networks.mnist_network(0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert networks.parameters_of(networks.mednet(0)) == 90_506
    assert networks.mednet(0)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_networks_depend_on_the_seed_alone():
    networks = script("networks")
    first = networks.mnist_network(3)
    torch.rand(5)
    second, other = networks.mnist_network(3), networks.mnist_network(4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_vision_transformer_is_one_by_its_behaviour():
    # Attention mixes all patches; without positions, their order would not matter.
    network = script("networks").vision_transformer((1, 28, 28), 10, 7, 0).eval()
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    moved = torch.cat([x[..., 7:], x[..., :7]], -1)
    with torch.no_grad():
        assert not torch.allclose(network(x), network(moved), atol=1e-4)
        network.position.zero_()
        torch.testing.assert_close(network(x), network(moved), atol=1e-5, rtol=1e-4)


def test_small_split_is_disjoint_and_stratified(monkeypatch):
    records = importlib.import_module("records")
    targets = torch.arange(10_000) % 10
    inputs = torch.arange(10_000.0)[:, None]
    empty = Split(inputs[:0], targets[:0])
    whole = Data("mnist", "classification", Split(inputs, targets), empty, empty, tuple("0123456789"))
    monkeypatch.setattr(records.pf, "load", lambda *args, **options: whole)
    data, other = records.load_data("mnist-5000", 0), records.load_data("mnist-5000", 1)
    assert (len(data.train), len(data.validation)) == (5000, 1000)
    assert torch.bincount(data.train.targets).tolist() == [500] * 10
    assert not set(data.train.inputs[:, 0].tolist()) & set(data.validation.inputs[:, 0].tolist())
    assert not torch.equal(data.train.inputs, other.train.inputs)


def test_groups_are_disjoint_and_at_most_ten():
    table = script("table")
    members = torch.arange(100.0)[:, None, None]
    assert [len(table.groups_of(members, k)) for k in (1, 5, 30, 100)] == [10, 10, 3, 1]
    used = torch.cat(table.groups_of(members, 30)).flatten().tolist()
    assert len(set(used)) == 90


def test_figures_of_a_group_by_hand():
    table = script("table")
    members, held = probabilities(3, 400, 0), probabilities(3, 300, 1)
    labels, held_labels = (torch.randint(10, (n,), generator=torch.Generator().manual_seed(n)) for n in (400, 300))
    found = table.judge(members, labels, held, held_labels)
    mean = members.double().numpy().mean(0)
    truth = labels.numpy()
    assert found["accuracy"] == pytest.approx(100 * (mean.argmax(1) == truth).mean())
    assert found["nll"] == pytest.approx(-np.log(mean[np.arange(400), truth]).mean(), rel=1e-5)
    assert found["brier"] == pytest.approx(((mean - np.eye(10)[truth]) ** 2).sum(1).mean(), rel=1e-5)
    votes = members.numpy().argmax(2)
    pairs = [(votes[a] != votes[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found["disagreement"] == pytest.approx(100 * np.mean(pairs))
    assert found["gain"] > 0
    # Labels are independent of these predictions: a temperature above 1 must help.
    assert found["temperature"] > 1
    assert found["nll_tempered"] < found["nll"]


def test_detection_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    table = script("table")
    inside, outside = probabilities(4, 300, 0), probabilities(4, 200, 1).sqrt()
    outside = outside / outside.sum(-1, keepdim=True)
    found = table.detect(inside, outside)
    truth = [0] * 300 + [1] * 200
    mean = torch.cat([inside, outside], 1).double().mean(0)
    expected = roc_auc_score(truth, -(mean * mean.log()).sum(-1).numpy())
    assert found["entropy"]["auroc"] == pytest.approx(100 * expected, rel=1e-6)
    assert found["max_probability"]["auroc"] == pytest.approx(100 * roc_auc_score(truth, -mean.amax(-1).numpy()))
    assert set(found) == {"max_probability", "entropy", "mutual_information"}
    assert set(table.detect(inside[:1], outside[:1])) == {"max_probability", "entropy"}


def test_entropy_curve_is_a_distribution_function():
    table = script("table")
    curve = table.entropy_curve(probabilities(2, 500, 0))
    assert len(curve) == table.BINS + 1
    assert curve == sorted(curve)
    assert (curve[0], curve[-1]) == (0.0, 1.0)
    assert table.entropy_curve(torch.full((1, 3, 10), 0.1))[-2:] == [0.0, 1.0]


def test_every_method_of_the_table_is_a_method():
    table = script("table")
    assert set(table.METHODS) >= {"hypergan", "deep-ensemble", "mc-dropout", "swag", "laplace", "mnf", "apd"}
    for data in table.OUTLIERS:
        for make in table.METHODS.values():
            json.dumps(make(data).to_json())


def test_a_part_counts_only_with_its_settings(tmp_path):
    records = importlib.import_module("records")
    path = tmp_path / "parts" / "one.json"
    assert not records.part_is_current(path, {"seed": 0})
    records.write_part(path, {"key": {"seed": 0, "draws": [1, 2]}})
    assert records.part_is_current(path, {"seed": 0, "draws": (1, 2)})
    assert not records.part_is_current(path, {"seed": 1, "draws": (1, 2)})
    assert records.read_parts(tmp_path) == [{"key": {"seed": 0, "draws": [1, 2]}}]


def test_spread_over_seeds_leaves_missing_figures_out():
    records = importlib.import_module("records")
    assert records.mean_and_sd([1.0, 3.0, None, math.nan]) == {"mean": 2.0, "sd": 1.4142, "seeds": 2}
    assert records.mean_and_sd([1.0])["sd"] is None


def test_record_is_plain_json_and_survives(tmp_path):
    records = importlib.import_module("records")
    value = {
        "a": [0.123456789, math.inf],
        "b": {"c": [{"d": i} for i in range(40)]},
        "e": {str(i): i for i in range(40)},
    }
    records.write_record(tmp_path / "x.json", value)
    read = json.loads((tmp_path / "x.json").read_text())
    assert read["a"] == [0.12346, None]
    assert read["b"] == value["b"]
    assert read["e"] == value["e"]


def test_table_is_assembled_over_seeds():
    table = script("table")

    def part(seed: int, value: float) -> dict:
        key = {"data": "mnist", "name": "swag", "seed": seed, "method": {}}
        figures = {"1": {"accuracy": value}}
        curves = {"100": {"test": [0.0, value / 100]}}
        return {
            "key": key,
            "cost": {"stored": 5},
            "figures": figures,
            "outliers": {},
            "entropy": curves,
            "machine": "m",
        }

    found = table.outcome([part(0, 98.0), part(1, 99.0)])["data"]["mnist"]["swag"]
    assert found["figures"]["1"]["accuracy"] == {"mean": 98.5, "sd": 0.70711, "seeds": 2}
    assert found["entropy"]["100"]["test"] == [0.0, pytest.approx(0.985)]
    assert found["seeds"] == [0, 1]


def test_coverage_of_new_data_by_simulation():
    toy = script("toy")
    mean, std, truth = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.5])
    noisy = truth + toy.NOISE * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    half = 1.959964 * math.sqrt(4 + toy.NOISE**2)
    simulated = float(((noisy - mean).abs() <= half).float().mean())
    assert float(toy.expected_coverage(mean, std, truth, 0.95)) == pytest.approx(simulated, abs=0.003)


def test_a_perfect_band_covers_what_it_promises():
    toy = script("toy")
    exact = toy.judge(toy.Band(toy.GRID**3, torch.full_like(toy.GRID, 1e-9)))
    assert exact["data_inside_68"] == pytest.approx(68, abs=0.01)
    assert exact["data_outside_95"] == pytest.approx(95, abs=0.01)
    assert exact["rmse_inside"] == 0
    assert not exact["widens"]
    assert toy.judge(toy.Band(toy.GRID**3, toy.GRID.abs()))["widens"]


def test_reference_is_the_posterior_of_its_kernel():
    # At the fitted kernel the mean at the data is K (K + noise I)^-1 y: near the data it follows them.
    toy = script("toy")
    x, y = toy.points(0)
    band = toy.gaussian_process(x, y)
    inside = toy.GRID.abs() <= toy.INSIDE
    assert float((band.mean - toy.GRID**3)[inside].square().mean().sqrt()) < toy.NOISE
    assert float(band.std[0]) > float(band.std[inside].max())


def test_points_are_those_of_the_paper():
    x, y = script("toy").points(0)
    assert (len(x), float(x.min()), float(x.max())) == (20, -4.0, 4.0)
    assert 1 < float((y - x**3).std()) < 5


def test_latent_band_of_the_infinitely_wide_form_has_no_noise():
    toy = script("toy")
    x, y = toy.points(0)
    method = toy.methods([], 1)["infinite width"]
    form = method.fit(toy.network(0, biases=False), toy.as_data(x, y))
    band = toy.band_of(form)
    scaled = (torch.linspace(-6, 6, 241) / toy.UNITS[0])[:, None]
    latent = form.latent(scaled, variance=True).variance * form.scale * form.unit.double() ** 2
    np.testing.assert_allclose(band.std, latent.clamp_min(0).sqrt() * toy.UNITS[1], rtol=2e-3, atol=0.05)


def test_ablation_summary_finds_the_peak():
    found = script("ablation").summary([[0.1, 0.5, 0.2], [0.1, 0.7, 0.4]], [1, 2, 3])
    assert found == {"first": 0.1, "peak": pytest.approx(0.6), "peak_epoch": 2, "last": pytest.approx(0.3)}


def test_members_become_stock_modules():
    targets = script("targets")
    data = pf.load("digits")

    def build() -> nn.Module:
        return pf.nets.build("mlp", data, seed=9)

    method = pf.MCDropout(members=4, rate=0.2, training=pf.Training(epochs=1))
    form = method.fit(build(), data)
    found = targets.materialised(form, data, build)
    assert found["within_1e-6"]["float64"]
    assert found["largest_difference_of_a_probability"]["float64"] < 1e-12
    assert found["largest_difference_of_a_probability"]["float32"] < 1e-5
    assert found["class"].endswith("MLP")
    assert found["largest_difference_between_two_members"] > 1e-3

"""Pure parts of the study of training sizes: choice by leave-one-out, intervals, and differences between networks."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "reproductions" / "cifar10_sizes.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar10_sizes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def left_out_accuracy(gram: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, ridge: float) -> float:
    """Every sample predicted from the others, one solve each."""
    right = 0
    for i in range(len(gram)):
        rest = [j for j in range(len(gram)) if j != i]
        shifted = gram[rest][:, rest] + ridge * gram.diagonal().mean() * torch.eye(len(rest))
        right += int((gram[i, rest] @ torch.linalg.solve(shifted, targets[rest])).argmax() == labels[i])
    return 100 * right / len(gram)


def test_choice_is_the_best_by_brute_force(script):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (30,), generator=generator)
    x = torch.nn.functional.one_hot(labels, 10).double() + 0.6 * torch.randn(30, 10, generator=generator)
    grams = {"nngp": x @ x.T, "ntk": (-(torch.cdist(x, x) ** 2) / 4).exp()}
    chosen, weights = script.choose(grams, labels)
    targets = script.coded(labels)
    everything = {
        (kernel, ridge): left_out_accuracy(gram, targets, labels, ridge)
        for kernel, gram in grams.items()
        for ridge in script.RIDGES
    }
    assert chosen.leave_one_out == pytest.approx(max(everything.values()), abs=0.01)
    assert everything[chosen.kernel, chosen.ridge] == pytest.approx(chosen.leave_one_out, abs=0.01)
    gram = grams[chosen.kernel]
    shifted = gram + chosen.ridge * gram.diagonal().mean() * torch.eye(30)
    np.testing.assert_allclose(shifted @ weights, targets, atol=1e-8)


def test_large_parts_search_near_the_best_ridge_of_a_smaller_one(script, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (60,), generator=generator)
    x = torch.nn.functional.one_hot(labels, 10).double() + 0.6 * torch.randn(60, 10, generator=generator)
    gram = (-(torch.cdist(x, x) ** 2) / 4).exp()
    whole = script.best_of(gram, labels)
    monkeypatch.setattr(script, "WHOLE_GRID", 30)
    start = script.RIDGES.index(script.best_of(gram[:30, :30], labels[:30]).ridge)
    near = script.best_of(gram, labels)
    assert near.ridge in script.RIDGES[max(start - 1, 0) : start + 2]
    expected = left_out_accuracy(gram, script.coded(labels), labels, near.ridge)
    assert 100 * near.score[0] == pytest.approx(expected)
    if near.ridge == whole.ridge:
        np.testing.assert_allclose(near.weights, whole.weights, rtol=1e-6)


def test_interval_of_one_part_is_that_of_a_share(script):
    right = np.array([1.0] * 30 + [0.0] * 70)
    found = script.over_images(right)
    half = 196 * np.sqrt(0.3 * 0.7 / 99)
    assert found["mean"] == 30.0
    assert found["interval_95"] == pytest.approx([30 - half, 30 + half], abs=0.01)


def test_differences_are_paired(script):
    # Every image that the lower network has right, the higher one has, too: far narrower than two separate intervals.
    lower, higher = [1] * 300 + [0] * 700, [1] * 320 + [0] * 680
    scores = {("mlp", 9): [{"right": lower}], ("cnn", 9): [{"right": higher}], ("mlp", 5): [{"right": lower}]}
    (found,) = script.differences(scores)
    assert (found["size"], found["lower"], found["higher"], found["mean"]) == (9, "mlp", "cnn", 2.0)
    assert found["interval_95"] == pytest.approx([2 - 196 * np.sqrt(0.02 * 0.98 / 999), 2 + 0.868], abs=0.01)
    assert found["order_holds"]
    assert found["beyond_the_interval"]


def test_differences_use_the_parts_that_both_have(script):
    first, second = [1] * 60 + [0] * 40, [0] * 100
    scores = {("cnn", 9): [{"right": first}, {"right": second}], ("wrn", 9): [{"right": first}]}
    (found,) = script.differences(scores)
    assert (found["parts"], found["mean"], found["order_holds"]) == (1, 0.0, False)


def test_rows_keep_every_part(script):
    part = {"kernel": "ntk", "ridge": 0.1, "leave_one_out": 50.0}
    found = script.row("mlp", 4, [part | {"right": [1, 1, 0, 0]}, part | {"right": [1, 0, 0, 0]}])
    assert found["mean"] == 37.5
    assert [shown["accuracy"] for shown in found["parts"]] == [50.0, 25.0]
    assert found["sd_over_parts"] == pytest.approx(np.std([50, 25], ddof=1), abs=0.01)


def test_networks_have_kernels(script):
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, layers in (("mlp", 5), ("cnn", 6)):
        kernel = script.kernel_of(script.NETS[name](), x, weight_var=2.0)(x)
        assert kernel.nngp.shape == (2, 2)
        if name == "mlp":  # Without padding all layers add the same.
            np.testing.assert_allclose(kernel.ntk.diagonal(), layers * kernel.nngp.diagonal(), rtol=1e-10)
        else:
            assert (kernel.ntk.diagonal() > kernel.nngp.diagonal()).all()


def test_figure_is_drawn(script, tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"net": net, "size": size, "mean": 30.0 + i, "interval_95": [29.0 + i, 31.0 + i]}
        for i, net in enumerate(script.NETS)
        for size in (250, 500)
    ]
    script.draw({"rows": rows, "tests": 1000}, tmp_path / "figures" / "sizes.png")
    assert (tmp_path / "figures" / "sizes.png").stat().st_size > 10_000

"""Pure parts of the CIFAR-10 perceptron: whitening, targets, intervals, and the triangle from a store."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pluriform.gaussian_process import condition
from pluriform.gaussian_process.tiled_cholesky import condition_tiled
from pluriform.infinite.store import kernel_store

SCRIPT = Path(__file__).parents[2] / "reproductions" / "cifar10_mlp.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar10_mlp", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def correlated(rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    return torch.randn(rows, 6, generator=generator) @ mixing + 3.0


def test_whitening_without_regularisation_decorrelates(script):
    inputs = correlated(2000)
    white = script.Whitening.fit(inputs).apply(inputs, 0.0).double()
    covariance = white.T @ white / len(white)
    np.testing.assert_allclose(covariance, torch.eye(6), atol=1e-3)


def test_strong_regularisation_only_centres_and_scales(script):
    inputs = correlated(2000)
    white = script.Whitening.fit(inputs).apply(inputs, 1e6)
    centred = inputs - inputs.mean(0)
    np.testing.assert_allclose(white, centred / centred.square().mean().sqrt(), atol=1e-3)


def test_whitened_inputs_keep_a_mean_square_of_one(script):
    inputs = correlated(500)
    whitening = script.Whitening.fit(inputs)
    for eps in (0.01, 0.3, 10.0):
        assert float(whitening.apply(inputs, eps).square().mean()) == pytest.approx(1.0, rel=1e-3)


def test_targets_are_centred_one_hot(script):
    targets = script.coded(torch.tensor([3, 0]))
    assert targets[0].tolist() == pytest.approx([-0.1] * 3 + [0.9] + [-0.1] * 6)
    assert targets.sum(1).tolist() == pytest.approx([0.0, 0.0])


def test_interval_by_the_formula_of_wilson(script):
    right, count, z = 570, 1000, 1.959963984540054
    share = right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert script.wilson(right, count) == pytest.approx([100 * (middle - half), 100 * (middle + half)], abs=0.006)


def test_triangle_from_a_store_solves_like_the_whole_matrix(script, tmp_path):
    generator = torch.Generator().manual_seed(1)
    x, targets = torch.randn(23, 5, generator=generator), torch.randn(23, 2, generator=generator).double()
    function = script.kernel_function(x, 0.1)
    store = kernel_store(tmp_path / "k.zarr", function, x, mirrored=False, tile=7, dtype=torch.float64)
    for kernel in ("nngp", "ntk"):
        whole = getattr(function(x), kernel)
        tiled = condition_tiled(script.packed(getattr(store, kernel), 7), targets, 0.01)
        np.testing.assert_allclose(tiled.weights, condition(whole, targets, 0.01).weights, rtol=1e-8)


def test_five_layers_of_weights(script):
    # Without bias all five layers add the NNGP of the last to the NTK, at weight variance 2.
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    kernel = script.kernel_function(x, 0.0)(x)
    np.testing.assert_allclose(kernel.ntk.diagonal(), 5 * kernel.nngp.diagonal(), rtol=1e-12)


def test_tuning_finds_the_best_setting_first(script):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(10, (60,), generator=generator)
    inputs = torch.nn.functional.one_hot(labels, 10).float() + 0.3 * torch.randn(60, 10, generator=generator)
    images = script.Images(inputs, labels, inputs, labels)
    rows = script.tune(images, None, 40, 20, 40)
    assert len(rows) == len(script.BIASES) * len(script.RIDGES) * len(script.KERNELS)
    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 80
    script.Setting(**rows[0]["setting"])


def test_tuning_tries_every_whitening(script):
    inputs = correlated(80)
    labels = (inputs[:, 0] > inputs[:, 0].median()).long()
    images = script.Images(inputs, labels, inputs, labels)
    rows = script.tune(images, script.Whitening.fit(inputs), 40, 20, 60)
    first = rows[-len(script.WHITENINGS) :]
    assert [row["setting"]["whitening"] for row in first] == list(script.WHITENINGS)
    best = max(first, key=lambda row: row["accuracy"])["setting"]["whitening"]
    others = rows[: -len(script.WHITENINGS)]
    assert len(others) == len(script.BIASES) * len(script.RIDGES) * len(script.KERNELS)
    assert {row["setting"]["whitening"] for row in others} == {best}

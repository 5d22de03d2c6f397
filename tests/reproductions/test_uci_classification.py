"""Pure parts of the UCI study, and its kernels beside the few lines that the paper's authors published in NumPy."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "reproductions" / "uci_classification.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("uci_classification", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recursion(x: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The 15 kernels from covariances alone, independent of everything under test."""
    found = {}
    for fix in range(5):
        s, h = x @ x.T, np.zeros((len(x), len(x)))
        for dep in range(5):
            if fix <= dep:
                h = h + s
                found[dep, fix] = h
            p = np.maximum(np.sqrt(np.outer(np.diag(s), np.diag(s))), 1e-9)
            c = np.clip(s / p, -1, 1)
            angle = np.pi - np.arccos(c)
            s, h = p * (c * angle + np.sqrt(1 - c**2)) / (2 * np.pi), h * angle / (2 * np.pi)
    return found


def test_kernels_are_those_of_the_recursion(study):
    x = np.random.default_rng(0).normal(size=(40, 7))
    x[5] = x[4]
    expected = recursion(x)
    assert len(expected) == 15
    for (depth, frozen), kernel in expected.items():
        # The recursion takes the arccosine of a rounded cosine, half the digits for equal inputs.
        np.testing.assert_allclose(study.perceptron_kernel(x, depth, frozen), kernel, rtol=2e-7, atol=1e-12)


def test_an_empty_row_has_no_covariance(study):
    x = np.concatenate([np.zeros((1, 7)), np.random.default_rng(0).normal(size=(3, 7))])
    kernel = study.perceptron_kernel(x, 3, 1)
    assert not kernel[0].any()
    assert (np.diag(kernel)[1:] > 0).all()


def test_the_fully_frozen_kernel_is_the_nngp(study):
    x = np.random.default_rng(1).normal(size=(10, 3))
    kernels = [study.perceptron_kernel(x, 2, frozen) for frozen in range(3)]
    variance = (x**2).sum(1)
    # All layers trained: each of three layers adds the variance, a quarter of x.x; frozen ones do not.
    for frozen, kernel in enumerate(kernels):
        np.testing.assert_allclose(np.diag(kernel), (3 - frozen) * variance / 4, rtol=1e-12)


def test_the_ninety_sets(study, shared_data):
    tables = study.read_tables(shared_data / "uci_classification" / "uci_small.tar.xz")
    assert len(tables) == 90
    sizes = [len(table.labels) for table in tables]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 5000
    for table in tables:
        assert len(table.folds) == 4
        assert table.inputs.shape[0] == len(table.labels)
        for train, test in (table.tuning, *table.folds):
            assert not set(train) & set(test)
            assert max(train.max(), test.max()) < len(table.labels)


def test_kernels_on_real_rows(study, shared_data):
    tables = study.read_tables(shared_data / "uci_classification" / "uci_small.tar.xz")
    wine = next(table for table in tables if table.name == "wine").inputs
    for (depth, frozen), kernel in recursion(wine).items():
        np.testing.assert_allclose(study.perceptron_kernel(wine, depth, frozen), kernel, rtol=2e-7, atol=1e-9)


def test_the_first_of_equal_settings_is_kept(study):
    best = study.Best()
    for accuracy, setting in ((0.5, 1), (0.7, 2), (0.7, 3), (0.6, 4)):
        best.offer(accuracy, setting)
    assert best.setting == (2,)


def test_summary_by_hand(study):
    found = study.summary({"a": np.array([1.0, 0.5, 0.8]), "b": np.array([0.92, 0.5, 0.4])})
    assert found["a"]["accuracy"] == pytest.approx(76.67)
    assert (found["a"]["p95"], found["b"]["p95"]) == (100.0, pytest.approx(33.33))
    assert found["b"]["p90"] == pytest.approx(66.67)
    assert found["b"]["pma"] == pytest.approx(100 * (0.92 + 1 + 0.5) / 3, abs=0.01)
    assert (found["a"]["friedman_rank"], found["b"]["friedman_rank"]) == (pytest.approx(1.167), pytest.approx(1.833))


def test_gaussian_kernel_by_hand(study):
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(study.rbf(x, 0.5), [[1.0, np.exp(-2.5)], [np.exp(-2.5), 1.0]])


def test_lines_torn_by_a_kill_are_left_out(study, tmp_path):
    path = tmp_path / "sets.jsonl"
    path.write_text('{"set": "a"}\n{"set": "b"')
    assert [row["set"] for row in study.lines(path)] == ["a"]

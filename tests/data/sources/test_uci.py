import shutil

import pytest
import torch

from pluriform.data.check import check_fit_data
from pluriform.data.load import load
from pluriform.errors import ConfigError, CorruptFileError


def test_a_set_with_folds(shared_data):
    data = load("uci:iris")
    assert data.name == "uci:iris"
    assert (data.input_shape, data.outputs, data.bounds) == ((4,), 3, None)
    assert len(data.train) + len(data.validation) + len(data.test) in range(148, 151)
    rows = torch.cat([data.train.inputs, data.validation.inputs, data.test.inputs])
    assert rows.mean(0).abs().max() < 0.1  # Standardised by the collection.
    check_fit_data(data)
    assert torch.equal(data.test.inputs, load("uci:iris", seed=3).test.inputs)
    assert not torch.equal(data.test.inputs, load("uci:iris", split=1).test.inputs)


def test_a_set_with_its_own_test_file(shared_data):
    data = load("uci:annealing")
    assert (len(data.train) + len(data.validation), len(data.test)) == (798, 100)
    with pytest.raises(ConfigError, match=r"expected a split in 0\.\.0; got 1 \(uci:annealing\)"):
        load("uci:annealing", split=1)


def test_a_large_set_is_in_the_other_archive(shared_data):
    assert load("uci:mushroom").input_shape == (21,)


def test_unknown_sets_and_folds(shared_data):
    with pytest.raises(ConfigError, match=r"expected a set of uci_classification; got 'irys' .* choose one of iris"):
        load("uci:irys")
    with pytest.raises(ConfigError, match=r"expected a split in 0\.\.3; got 4"):
        load("uci:iris", split=4)


def test_regression_is_standardised_by_its_training_rows(shared_data):
    data = load("uci-regression:yacht")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [249, 28, 31]
    seen = torch.cat([data.train.inputs, data.validation.inputs])
    torch.testing.assert_close(seen.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert data.train.targets.shape == (249, 1)
    assert float(data.train.targets.max()) > 50  # In its own units.
    check_fit_data(data)


def test_least_squares_gives_the_usual_error(shared_data):
    """An oracle from outside: the error of linear regression on the first split, 9.25 on yacht, 3.73 on Boston."""
    for name, error in (("yacht", 9.25), ("bostonHousing", 3.73), ("concrete", 11.05)):
        data = load(f"uci-regression:{name}", validation=0.0)
        design, test = (
            torch.cat([part.inputs, torch.ones(len(part), 1)], 1).double() for part in (data.train, data.test)
        )
        weights = torch.linalg.lstsq(design, data.train.targets.double(), driver="gelsd").solution
        found = (test @ weights - data.test.targets).square().mean().sqrt()
        assert float(found) == pytest.approx(error, abs=0.01)
    with pytest.raises(ConfigError, match=r"expected a split in 0\.\.19; got 20"):
        load("uci-regression:yacht", split=20)


def test_a_truncated_archive_is_named(shared_data, tmp_path):
    shutil.copy(shared_data / "uci_regression/uci_regression.tar.xz", tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "uci_regression.tar.xz").write_bytes(content[:30000])
    with pytest.raises(CorruptFileError, match=r"expected a tar archive; got .*uci_regression\.tar\.xz"):
        load("uci-regression:yacht", path=tmp_path)

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pluriform.data.check import check_fit_data
from pluriform.data.load import NAMES, load
from pluriform.errors import ConfigError, DataNotFoundError, ShapeError


def counts(split, classes=10):
    return torch.bincount(split.targets, minlength=classes)


def test_digits_are_those_of_scikit_learn_split_within_one_of_proportion():
    data = load("digits")
    pixels, labels = load_digits(return_X_y=True)
    everything = torch.cat([data.train.inputs, data.validation.inputs, data.test.inputs])
    assert everything.shape == (1797, 1, 8, 8)
    assert everything.dtype == torch.float32
    ours = np.unique((everything.flatten(1).numpy() * 16).round(), axis=0)
    np.testing.assert_array_equal(ours, np.unique(pixels, axis=0))
    whole = torch.bincount(torch.from_numpy(labels))
    assert (counts(data.train) + counts(data.validation) + counts(data.test)).tolist() == whole.tolist()
    assert (counts(data.test) - whole * 0.2).abs().max() < 1
    assert (counts(data.validation) - (whole - counts(data.test)) * 0.1).abs().max() < 1.1
    assert data.bounds == (0.0, 1.0)
    check_fit_data(data)


def test_the_seed_changes_validation_but_never_test():
    first, second = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert torch.equal(first.test.targets, second.test.targets)
    assert not torch.equal(first.validation.inputs, second.validation.inputs)
    assert torch.equal(first.validation.inputs, load("digits", seed=0).validation.inputs)
    assert first.fingerprint == load("digits").fingerprint != second.fingerprint


def test_the_amount_of_validation_is_chosen():
    assert len(load("digits", validation=0.25).validation) == round(0.25 * 1438)
    assert len(load("digits", validation=0.0).validation) == 0
    assert len(load("digits", validation=100).validation) == 100
    with pytest.raises(ConfigError, match=r"expected a fraction in \[0, 1\)"):
        load("digits", validation=-1.0)


def test_a_name_of_ones_own():
    assert load("digits", name="mine").name == "mine"


def test_the_toy_has_a_gap_in_train_that_test_fills():
    data = load("toy-1d")
    assert data.train.inputs.abs().min() >= 0.5
    assert data.test.inputs.abs().min() < 0.02
    truth = torch.sin(4 * data.test.inputs) + data.test.inputs / 2
    assert float((data.test.targets - truth).std()) == pytest.approx(0.1, abs=0.02)
    check_fit_data(data)


def test_a_wrong_name_gets_the_list_and_a_suggestion():
    with pytest.raises(ConfigError, match=r"expected a name \(cifar10, .*got 'fashon-mnist' .*write 'fashion-mnist'"):
        load("fashon-mnist")
    with pytest.raises(ConfigError, match="name a set, for instance uci:wine"):
        load("uci")
    with pytest.raises(DataNotFoundError, match="expected a folder or file; got nothing"):
        load("./nothing-here")
    with pytest.raises(ConfigError, match="write load\\(inputs, targets\\)"):
        load(np.zeros((3, 2)))


def test_names_win_over_folders(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").test) == 359
    with pytest.raises(DataNotFoundError, match="expected pictures"):
        load("./digits")


def test_every_name_is_offered():
    assert set(NAMES) >= {"digits", "mnist", "fashion-mnist", "kmnist", "notmnist", "cifar10", "cifar100", "uci"}


def test_importing_is_light():
    heavy = "('sklearn', 'pandas', 'PIL', 'pooch', 'scipy', 'pyarrow')"
    code = f"import sys, pluriform.data.load; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.strip()) == (0, "")


def test_options_that_a_source_would_ignore_are_refused(tmp_path):
    images = np.zeros((4, 1, 4, 4), dtype=np.float32)
    two_domains = "; these are of folders of two domains, loaded with task=.translation."
    with pytest.raises(
        ConfigError,
        match=f"of pictures: classes, bounds, paired; got direction .ndarray.*leave out direction{two_domains}",
    ):
        load(images, images, task="translation", direction="BtoA")
    with pytest.raises(ConfigError, match=f"got direction .facades.*leave out direction{two_domains}"):
        load("facades", direction="BtoA")
    with pytest.raises(ConfigError, match=f"a folder of class folders: size; got paired .*{two_domains}"):
        load(tmp_path, paired=False)
    with pytest.raises(ConfigError, match=r"expected options of facades: path, size; got classes \(facades\)"):
        load("facades", classes=("wall", "window"))
    with pytest.raises(ConfigError, match="options of digits: path; got target, size, split, standardise"):
        load("digits", target="label", size=16, split=1, standardise=True)
    with pytest.raises(ConfigError, match="options of uci:wine: path, split; got bounds"):
        load("uci:wine", bounds=(0.0, 1.0))
    table = tmp_path / "some.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="options of a table: target, classes, bounds, standardise; got size"):
        load(table, size=8)
    with pytest.raises(ConfigError, match=r"expected classification; got 'regression' \(task of digits\)"):
        load("digits", task="regression")
    with pytest.raises(ConfigError, match=r"expected classification; got 'regression' \(task of the class folders"):
        load(tmp_path, task="regression")
    with pytest.raises(ConfigError, match=r"expected targets beside arrays only; got targets \(digits\)"):
        load("digits", images)
    with pytest.raises(ConfigError, match=r"height and width; got \(8, 0\).*give size=64"):
        load(tmp_path, size=(8, 0))
    with pytest.raises(ConfigError, match="expected a whole number of 0 or more; got -1"):
        load("digits", seed=-1)


def test_a_folder_that_is_not_there_is_said_to_be_missing_whatever_its_options(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"expected a folder or file; got nothing \(.*photografs"):
        load(tmp_path / "photografs", task="translation", size=64)


def test_arrays_of_two_sides_are_pairs_or_not_as_they_are_told():
    first, second = (np.random.default_rng(seed).random((20, 3, 8, 8), dtype=np.float32) for seed in (0, 1))
    assert load(first, second, task="translation").paired
    assert not load(first, second, task="translation", paired=False).paired
    assert not load(first, second[:15], task="translation").paired
    with pytest.raises(ShapeError, match="expected as many inputs as targets; got 20 and 15 images"):
        load(first, second[:15], task="translation", paired=True)
    maps = np.zeros((20, 8, 8), dtype=np.int64)
    with pytest.raises(ConfigError, match="expected pairs where classes are given"):
        load(maps, second, task="translation", classes=("wall",), paired=False)

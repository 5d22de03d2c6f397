import numpy as np
import pandas
import pytest
import torch

from pluriform.data.load import load
from pluriform.errors import ConfigError, CorruptFileError, NonFiniteError, ShapeError


@pytest.fixture
def frame():
    random = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "width": random.normal(size=60),
            "colour": random.choice(["red", "green", "blue"], 60),
            "price": random.normal(size=60),
            "kind": random.choice(["cat", "dog"], 60),
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet"])
def test_every_format_gives_the_same(frame, tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in suffix else ",")
    data = load(path, target="kind", validation=0.0)
    assert data.task == "classification"
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (5,)  # width, three colours, price
    rows = torch.cat([data.train.inputs, data.test.inputs])
    assert rows[:, 1:4].sum(1).tolist() == [1.0] * 60
    assert sorted(rows[:, 0].tolist()) == pytest.approx(sorted(frame["width"]))


def test_numbers_mean_regression_and_few_whole_ones_classes(frame, tmp_path):
    frame["stars"] = np.arange(60) % 5 + 1
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load(tmp_path / "t.csv", target="price").task == "regression"
    assert load(tmp_path / "t.csv", target="stars").classes == ("1", "2", "3", "4", "5")
    assert load(tmp_path / "t.csv", target="stars", task="regression").train.targets.shape[1:] == (1,)


def test_a_missing_target_lists_the_columns(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    for target in (None, "sort"):
        words = rf"expected a target column among width, colour, price, kind; got target={target!r}"
        with pytest.raises(ConfigError, match=words):
            load(tmp_path / "t.csv", target=target)


def test_empty_cells_are_named(frame, tmp_path):
    frame.loc[7, "price"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(NonFiniteError, match=r"got 1 empty, the first in row 7 \(column price of .*t\.csv"):
        load(tmp_path / "t.csv", target="kind")


def test_text_that_is_no_category(frame, tmp_path):
    frame["id"] = [f"x{number}" for number in range(60)]
    frame = pandas.concat([frame, frame.assign(id=frame["id"] + "b")])
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ShapeError, match=r"at most 64 categories; got .* with 120 values such as 'x0' \(column id"):
        load(tmp_path / "t.csv", target="kind")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("t.csv", b"a,b\n\xff\xfe\xfd,1\n"),
        ("t.csv.gz", b"\x1f\x8b\x08\x00\x00"),
        ("t.csv.gz", b"plain"),
        ("t.parquet", b"PAR1 but not really"),
    ],
)
def test_damaged_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"expected a CSV or Parquet table; got .*{name}"):
        load(tmp_path / name, target="b")


def test_unknown_suffix(tmp_path):
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(ConfigError, match=r"expected a folder, \.npz, \.csv, .*; got \.xlsx"):
        load(tmp_path / "t.xlsx")

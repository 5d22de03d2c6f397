import gzip
import shutil
import struct
import time

import numpy as np
import pytest
import torch

from pluriform.data.load import load
from pluriform.data.sources.idx import NAMES, read_idx
from pluriform.errors import CorruptFileError


def header(shape, magic=0x0800):
    return struct.pack(">I", magic + len(shape)) + struct.pack(f">{len(shape)}I", *shape)


def test_bytes_are_read_with_or_without_gzip(tmp_path):
    values = np.arange(24, dtype=np.uint8)
    raw = header((2, 3, 4)) + values.tobytes()
    for content in (raw, gzip.compress(raw)):
        (tmp_path / "file").write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / "file"), values.reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "begins with nothing"),
        (b"<html>", "begins with 3c68746d"),
        (header((2, 3), magic=0x0D00) + bytes(24), "begins with 00000d02 instead of 000008"),
        (header((2, 3, 4))[:9], "a header that breaks off"),
        (header((2, 3)) + bytes(5), r"5 bytes for the shape \(2, 3\)"),
        (gzip.compress(header((200, 30)) + bytes(range(250)) * 24)[:-20], "a gzip stream that breaks off"),
    ],
)
def test_damage_is_named(tmp_path, content, words):
    (tmp_path / "damaged.gz").write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"expected an idx file of bytes; got .*{words}.*damaged\.gz"):
        read_idx(tmp_path / "damaged.gz")


def test_mnist_is_mnist(shared_data):
    data = load("mnist")
    train = torch.bincount(data.train.targets) + torch.bincount(data.validation.targets)
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test.targets[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert read_idx(shared_data / "mnist" / NAMES[1])[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(data.validation) == 6000
    # Mean and deviation of the pixels as everybody quotes them.
    pixels = torch.cat([data.train.inputs, data.validation.inputs])
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=1e-4)


def test_fashion_mnist_in_time(shared_data):
    start = time.process_time()
    data = load("fashion-mnist")
    assert time.process_time() - start < 3  # 0.7 s on an idle core.
    assert torch.bincount(data.train.targets).tolist() == [5400] * 10
    assert torch.bincount(data.test.targets).tolist() == [1000] * 10
    assert data.test.targets[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert data.classes[9] == "Ankle boot"
    assert data.train.inputs.shape == (54000, 1, 28, 28)
    raw = read_idx(shared_data / "fashion_mnist" / NAMES[2])
    torch.testing.assert_close(data.test.inputs[17, 0], torch.from_numpy(raw[17].astype(np.float32)) / 255)


def test_notmnist_has_a_fixed_fifth_for_test(shared_data):
    data = load("notmnist", seed=5)
    assert torch.bincount(data.test.targets).tolist() == [200] * 10
    assert torch.equal(data.test.inputs, load("notmnist", seed=6).test.inputs)


def test_kmnist_is_for_outliers(shared_data):
    data = load("kmnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 10000)
    assert torch.bincount(data.test.targets).tolist() == [1000] * 10
    assert data.input_shape == (1, 28, 28)


def test_a_truncated_file_of_a_set_is_named(shared_data, tmp_path):
    for name in NAMES:
        shutil.copy(shared_data / "mnist" / name, tmp_path / name)
    whole = (tmp_path / NAMES[2]).read_bytes()
    (tmp_path / NAMES[2]).chmod(0o600)
    (tmp_path / NAMES[2]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError, match=rf"{tmp_path / NAMES[2]}.*delete it and fetch it again"):
        load("mnist", path=tmp_path)

import io
import tarfile

import numpy as np
import pooch
import pytest
import torch
from PIL import Image

from pluriform.data.load import load
from pluriform.data.sources import cifar
from pluriform.data.sources.mosaic import read_mosaic
from pluriform.errors import CorruptFileError


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("PLURIFORM_DATA", raising=False)
    return tmp_path / "cache" / "pluriform"


def records(random, number, labels):
    return random.integers(0, 10, (number, labels + 3072)).astype(np.uint8)


def pack(path, files):
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_official_binary_files_are_read_in_order(cache):
    random = np.random.default_rng(0)
    batches = {f"data_batch_{number}.bin": records(random, 20, 1) for number in (2, 1, 3, 5, 4)}
    test = records(random, 10, 1)
    files = {f"cifar-10-batches-bin/{name}": rows.tobytes() for name, rows in batches.items()}
    pack(cache / "cifar10/cifar-10-binary.tar.gz", files | {"cifar-10-batches-bin/test_batch.bin": test.tobytes()})
    data = load("cifar10", validation=0.0)
    rows = np.concatenate([batches[f"data_batch_{number}.bin"] for number in range(1, 6)])
    assert data.train.targets.tolist() == rows[:, 0].tolist()
    torch.testing.assert_close(
        data.train.inputs, torch.from_numpy(rows[:, 1:].astype(np.float32)).reshape(-1, 3, 32, 32) / 255
    )
    assert data.test.targets.tolist() == test[:, 0].tolist()


def test_cifar100_takes_the_fine_label(cache):
    rows = np.concatenate([np.full((2, 1), 7), np.array([[3], [1]]), np.zeros((2, 3072))], 1).astype(np.uint8)
    names = "\n".join(f"class{number}" for number in range(100)) + "\n"
    files = {"a/train.bin": rows.tobytes(), "a/test.bin": rows.tobytes(), "a/fine_label_names.txt": names.encode()}
    pack(cache / "cifar100/cifar-100-binary.tar.gz", files)
    data = load("cifar100")
    assert data.test.targets.tolist() == [3, 1]
    assert data.classes[3] == "class3"


def test_damaged_archives_are_named(cache):
    archive = cache / "cifar10/cifar-10-binary.tar.gz"
    pack(archive, {"data_batch_1.bin": bytes(10)})
    with pytest.raises(CorruptFileError, match=r"got no data_batch_2\.bin in it .*cifar-10-binary\.tar\.gz"):
        load("cifar10")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(CorruptFileError, match=r"cifar-10-binary\.tar\.gz.*delete it and fetch it again"):
        load("cifar10")


def test_a_mosaic_is_cut_row_by_row(tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4)).astype(np.uint8)
    sheet = np.concatenate([np.concatenate(list(tiles[start : start + 3]), axis=2) for start in (0, 3)], axis=1)
    Image.fromarray(sheet.transpose(1, 2, 0)).save(tmp_path / "sheet.webp", lossless=True)
    np.testing.assert_array_equal(read_mosaic(tmp_path / "sheet.webp", side=4), tiles)
    with pytest.raises(CorruptFileError, match="expected a mosaic of 5x5 tiles; got 12x8 pixels"):
        read_mosaic(tmp_path / "sheet.webp", side=5)


def test_mosaics_are_decoded_once(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "MOSAICS", {"train": 2, "test": 1})
    random = np.random.default_rng(0)
    for part, number in {"train": 2, "test": 1}.items():
        for at in range(number):
            sheet = random.integers(0, 256, (64, 64, 3)).astype(np.uint8)
            Image.fromarray(sheet).save(tmp_path / f"{part}_{at:03d}.webp", lossless=True)
        np.save(tmp_path / f"{part}_labels.npy", np.arange(4 * number) % 2)
    first = load("cifar10", path=tmp_path, validation=0.0)
    kept = sorted((cache / "decoded").iterdir())
    assert [file.suffix for file in kept] == [".npy", ".npy"]
    monkeypatch.setattr(cifar, "read_mosaic", None)  # Not called any more.
    assert torch.equal(load("cifar10", path=tmp_path, validation=0.0).train.inputs, first.train.inputs)
    monkeypatch.undo()
    monkeypatch.setattr(cifar, "MOSAICS", {"train": 2, "test": 1})
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    kept[1].write_bytes(b"damaged")  # A damaged copy is made anew.
    assert torch.equal(load("cifar10", path=tmp_path, validation=0.0).train.inputs, first.train.inputs)


def test_the_part_of_cifar100(shared_data):
    data = load("cifar100-part")
    train = torch.bincount(data.train.targets) + torch.bincount(data.validation.targets)
    assert train.tolist() == [500 if label in (0, 53) else 40 for label in range(100)]
    assert torch.bincount(data.test.targets).tolist() == [100 if label in (0, 53) else 20 for label in range(100)]
    assert (data.classes[0], data.classes[53]) == ("apple", "orange")

import gzip
import struct

import numpy as np
import pooch
import pytest

from pluriform.data.load import load
from pluriform.data.sources.locate import Files, find, locate
from pluriform.errors import DataNotFoundError


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, an empty cache, no folder of data sets."""

    def refuse(url, **_):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("PLURIFORM_DATA", raising=False)
    return tmp_path


def test_without_network_the_message_names_file_places_and_remedy(offline, monkeypatch):
    monkeypatch.setenv("PLURIFORM_DATA", str(offline / "sets"))
    with pytest.raises(DataNotFoundError) as caught:
        load("mnist", path=offline / "given")
    message = str(caught.value)
    assert "got no train-images-idx3-ubyte.gz" in message
    for place in ("given", "given/mnist", "sets/mnist", "cache/pluriform/mnist"):
        assert str(offline / place) in message
    assert "no route to https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in message
    assert "or set PLURIFORM_DATA to a folder that has mnist/" in message
    assert isinstance(caught.value, FileNotFoundError)


def test_a_set_without_an_official_address_says_so(offline):
    with pytest.raises(DataNotFoundError, match="there is no official address to download it from"):
        load("notmnist")


def test_places_are_searched_in_order(offline, monkeypatch):
    files = Files("toy", ["a.txt", "b.txt"])
    monkeypatch.setenv("PLURIFORM_DATA", str(offline / "sets"))
    places = [offline / "cache/pluriform/toy", offline / "sets/toy", offline / "given/toy", offline / "given"]
    assert find(files, offline / "given") is None
    for place in places:  # From the last place to the first: each new one wins over the ones before.
        place.mkdir(parents=True, exist_ok=True)
        (place / "a.txt").touch()
        assert find(files, offline / "given") != place  # Half of the files are not enough.
        (place / "b.txt").touch()
        assert locate(files, offline / "given") == place


def test_a_download_is_checked_and_kept(offline, monkeypatch):
    asked = []

    def idx(shape):
        return gzip.compress(
            struct.pack(">I", 0x0800 + len(shape)) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape)))
        )

    def deliver(url, known_hash, fname, path):
        asked.append((url, known_hash))
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(idx((4, 2, 2) if "images" in fname else (4,)))

    monkeypatch.setattr(pooch, "retrieve", deliver)
    assert len(load("fashion-mnist").test) == 4
    assert len(asked) == 4
    assert all(known.startswith("md5:") and len(known) == 36 for _, known in asked)
    load("fashion-mnist")
    assert len(asked) == 4

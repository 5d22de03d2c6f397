"""Files of every format of torch.save give the same tensors; hostile and damaged ones raise one error with a reason."""

import io
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pluriform.errors import CorruptFileError, DataNotFoundError
from pluriform.robust import torch_stream
from pluriform.robust.stored_values import StoredTensor
from pluriform.robust.torch_file import open_torch_file

sys.path.insert(0, str(Path(__file__).parent))
from published import SmallResNet, as_bytes, drawn, warm_up, watched

BASE = torch.arange(24, dtype=torch.float32)
TENSORS = OrderedDict(
    plain=torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    transposed=BASE.view(4, 6).T,
    part=BASE[5:11],
    scalar=torch.tensor(3.5),
    empty=torch.empty(0, 4),
    whole=torch.tensor([1, -2, 2**40]),
    half=torch.tensor([0.5, -2.0], dtype=torch.float16),
    bfloat=torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    double=torch.tensor([1 / 3], dtype=torch.float64),
    flags=torch.tensor([True, False]),
    bytes=torch.tensor([0, 255], dtype=torch.uint8),
    complex=torch.tensor([1 + 2j]),
    parameter=nn.Parameter(torch.ones(2)),
    expanded=torch.ones(1).expand(3, 2),
)


@pytest.fixture(scope="module", autouse=True)
def warmed(tmp_path_factory):
    def load(path, *_):
        with open_torch_file(path):
            pass

    warm_up(load, tmp_path_factory.mktemp("warm") / "net.ckpt")


def read_all(path):
    """Every tensor of a file that is a dictionary."""
    with open_torch_file(path) as opened:
        return {
            name: opened.read(value) if isinstance(value, StoredTensor) else value
            for name, value in opened.content.items()
        }


def write(path, raw):
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("container", ["zip", "stream"])
def test_tensors_of_every_kind_come_back(container, tmp_path):
    path = write(tmp_path / "a.pt", as_bytes(TENSORS, container))
    with watched():
        read = read_all(path)
    assert list(read) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor.detach()), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_protocol_of_pickle_is_read(protocol, zipped, tmp_path):
    torch.save(TENSORS, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_all(tmp_path / "a.pt")["transposed"], TENSORS["transposed"])


def test_the_oldest_format_comes_back(tmp_path):
    state = {name: TENSORS[name].contiguous() for name in ("plain", "whole", "transposed", "scalar")}
    read = read_all(write(tmp_path / "a.pth", as_bytes(state, "tar")))
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in state.items()}


def test_views_of_one_storage_in_a_stream_begin_where_they_should(tmp_path):
    """Written by hand: torch wrote the third element of the persistent id until 0.4."""
    raw = io.BytesIO()
    for value in (torch_stream.MAGIC, torch_stream.PROTOCOL, {"little_endian": True}):
        pickle.dump(value, raw, 2)
    numbers = b"".join(pickle.dumps(part, 2)[2:-1] for part in ("root", "cpu", 12, ("view", 4, 6)))
    identifier = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + numbers + b"tQ"
    raw.write(
        b"}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor\n(" + identifier + b"K\x01K\x02K\x02\x86K\x02K\x01\x86tRs."
    )
    pickle.dump(["root"], raw, 2)
    raw.write(struct.pack("<q", 12) + struct.pack("<12f", *range(12)))
    assert read_all(write(tmp_path / "a.pth", raw.getvalue()))["a"].tolist() == [[5.0, 6.0], [7.0, 8.0]]


def test_safetensors_come_back(tmp_path):
    from safetensors.torch import save_file

    state = {name: TENSORS[name].contiguous() for name in ("plain", "whole", "half", "flags")}
    save_file(state, tmp_path / "a.safetensors")
    read = read_all(tmp_path / "a.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-3])
    with pytest.raises(CorruptFileError, match="whole file"):
        read_all(tmp_path / "b.safetensors")


class Command:
    """A command that would be run by an honest unpickler."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("container", ["zip", "stream"])
def test_a_planted_command_beside_the_weights_is_not_run(container, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pt", as_bytes({"model": TENSORS["plain"], "epoch": Command()}, container))
    with watched(), open_torch_file(path) as opened:
        assert torch.equal(opened.read(opened.content["model"]), TENSORS["plain"])
        assert opened.inert == (f"{os.system.__module__}.system",)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("part", range(5))
def test_a_command_in_any_pickle_of_a_stream_is_not_run(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = io.BytesIO()
    for number, value in enumerate((torch_stream.MAGIC, torch_stream.PROTOCOL, {}, {}, [])):
        pickle.dump(Command() if number == part else value, raw, 2)
    path = write(tmp_path / "a.pt", raw.getvalue())
    with watched():
        try:
            read_all(path)
        except (CorruptFileError, AttributeError):
            assert part != 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("part", ["storages", "tensors", "pickle"])
def test_a_command_in_a_tar_file_is_not_run(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:") as archive:
        for name in ("storages", "tensors", "pickle"):
            raw = pickle.dumps(Command(), 2) if name == part else pickle.dumps(0, 2) + pickle.dumps([], 2)
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    path = write(tmp_path / "a.pt", whole.getvalue())
    with watched(), pytest.raises((CorruptFileError, AttributeError)):
        read_all(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def zipped(records, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, raw in records:
            archive.writestr(name, raw)
    return stream.getvalue()


def records_of(content=None):
    with zipfile.ZipFile(io.BytesIO(as_bytes(TENSORS if content is None else content))) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def replaced(end, raw):
    return zipped([(name, raw if name.endswith(end) else old) for name, old in records_of()])


def link_tar():
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return whole.getvalue()


def stream_with(numel, stated):
    """A stream whose tensor claims `numel` numbers and whose storage states `stated`."""
    raw = as_bytes({"a": torch.arange(8.0)}, "stream")
    raw = raw.replace(b"K\x08Nt", b"\x8a\x08" + struct.pack("<q", numel) + b"Nt")
    return raw[: -8 - 32] + struct.pack("<q", stated) + raw[-32:]


HOSTILE = {
    "points out of the archive": lambda: zipped([*records_of(), ("../../evil", b"x")]),
    "points out": lambda: zipped([*records_of(), ("/etc/evil", b"x")]),
    "compressed record": lambda: zipped(records_of(), compression=zipfile.ZIP_DEFLATED),
    "compressed record, ": lambda: zipped(
        [*records_of(), ("archive/bomb", b"\x00" * 2**22)], compression=zipfile.ZIP_DEFLATED
    ),
    "without a data.pkl": lambda: zipped([("a/b", b"x")]),
    "TorchScript": lambda: zipped([*records_of(), (records_of()[0][0].split("/")[0] + "/code/a.py", b"x")]),
    "big-endian": lambda: replaced("byteorder", b"big"),
    "whose record has": lambda: replaced("data/0", b"x"),
    "no whole pickle": lambda: replaced("data.pkl", b"\xff"),
    "unknown type": lambda: as_bytes({"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}),
    "an empty file": lambda: b"",
    "a web page": lambda: b"<!DOCTYPE html><html><body>Quota exceeded",
    "Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "gzip": lambda: b"\x1f\x8b\x08\x00" + b"\x00" * 20,
    "torch.save did not write": lambda: pickle.dumps({"a": 1}),
    "numbers of which": lambda: stream_with(2**50, 2**50),
    "stated": lambda: stream_with(8, 2**50),
    "no plain file": link_tar,
    "storages, tensors and pickle": lambda: tar_of_one(),
}


def tar_of_one():
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:") as archive:
        archive.addfile(tarfile.TarInfo("net.ckpt"))
    return whole.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sentence", sorted(HOSTILE))
def test_each_kind_of_hostile_file_has_its_sentence(sentence, tmp_path):
    path = write(tmp_path / "a.pt", HOSTILE[sentence]())
    with watched(), pytest.raises(CorruptFileError, match=sentence) as raised:
        read_all(path)
    assert "a whole file written by torch.save" in str(raised.value)
    assert str(path) in str(raised.value)


DEEP = b"N" + b"\x85" * 100_000  # Hashing it would overflow the stack.


def test_deep_names_of_storages_are_refused(tmp_path):
    head = b"".join(pickle.dumps(value, 2) for value in (torch_stream.MAGIC, torch_stream.PROTOCOL, {}))
    identifier = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ."
    streams = {
        "neither text nor a number": head + identifier + b"]" + DEEP + b"a.",
        "a storage without a name": head + b"(S'storage'\nctorch\nFloatStorage\n" + DEEP + b"S'cpu'\nI1\ntQ.",
    }
    for sentence, raw in streams.items():
        with pytest.raises(CorruptFileError, match=sentence):
            read_all(write(tmp_path / "a.pt", raw))
    zero, none = pickle.dumps(0, 2), pickle.dumps([], 2)
    one = pickle.dumps(1, 2)
    view = b"](I1\n" + DEEP + b"I0\nI0\nta."
    tensor = b"(I1\n" + DEEP + b"Nt." + struct.pack("<iiq", 0, 0, 0)
    for storages, tensors, content in (
        (zero + view, zero, b"N."),
        (zero + none, one + tensor, b"N."),
        (zero + none, zero, DEEP + b"Q."),
    ):
        raw = tar_of({"storages": storages, "tensors": tensors, "pickle": content})
        with pytest.raises(CorruptFileError, match="no count"):
            read_all(write(tmp_path / "a.pt", raw))


def tar_of(members):
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:") as archive:
        for name, raw in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return whole.getvalue()


def test_two_records_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        raw = zipped([*records_of(), records_of()[0]])
    with pytest.raises(CorruptFileError, match="two of one name"):
        read_all(write(tmp_path / "a.pt", raw))


def test_what_is_no_file_is_said_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # Opening it for reading would wait for a writer for ever.
    for path, word in ((tmp_path, "a folder"), (tmp_path / "none", "no file"), (tmp_path / "pipe", "no file")):
        with pytest.raises(DataNotFoundError, match=word):
            read_all(path)


SMALL = OrderedDict(w=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), b=torch.tensor([5.0]), n=torch.tensor(7))


def outcome(path):
    """What a file gives: its tensors by name, or the sentence about it."""
    try:
        return {
            name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in read_all(path).items()
        }
    except CorruptFileError as error:
        return str(error)
    except AttributeError:
        return "no dictionary"


@pytest.mark.parametrize("container", ["zip", "stream", "tar"])
def test_a_file_cut_anywhere_is_refused(container, tmp_path):
    raw = as_bytes(SMALL, container)
    ends = sorted({*range(0, len(raw) - 1, max(1, len(raw) // 100)), len(raw) - 1})
    if container == "tar":  # An archive ends in zeros, of which the last kilobytes carry nothing.
        ends = [end for end in ends if end < len(raw.rstrip(b"\x00"))]
    for end in ends:
        got = outcome(write(tmp_path / "a.pt", raw[:end]))
        assert isinstance(got, str), (end, got)
        assert "expected a whole file" in got


@pytest.mark.parametrize("container", ["zip", "stream", "tar"])
def test_a_file_with_changed_bytes_is_refused_or_reads_as_one(container, tmp_path):
    """Zip archives notice every change that matters; the older formats carry no checksum of their numbers."""
    raw = as_bytes(SMALL, container)
    whole = outcome(write(tmp_path / "a.pt", raw))
    generator = np.random.default_rng(6)
    refused = equal = other = 0
    for trial in range(150):
        changed = bytearray(raw)
        for _ in range(1 + trial % 3):
            place = int(generator.integers(len(raw)))
            changed[place] = (changed[place] + int(generator.integers(1, 256))) % 256
        path = write(tmp_path / "a.pt", bytes(changed))
        with watched():
            got = outcome(path)
        refused += isinstance(got, str)
        equal += got == whole
        other += not isinstance(got, str) and got != whole
    assert refused > 5
    assert equal > 5 or container == "stream"
    assert container != "zip" or not other


def test_changed_pickles_in_a_sound_archive_are_refused_or_read_as_tensors(tmp_path):
    """Checksums written anew, as one who means harm would: now the reading of the pickle itself is tried."""
    records = records_of(SMALL)
    (where, raw), *_ = [(name, raw) for name, raw in records if name.endswith("data.pkl")]
    generator = np.random.default_rng(7)
    refused = 0
    for trial in range(200):
        changed = bytearray(raw)
        for _ in range(1 + trial % 4):
            place = int(generator.integers(len(raw)))
            changed[place] = int(generator.integers(256))
        path = write(tmp_path / "a.pt", zipped([(n, bytes(changed) if n == where else old) for n, old in records]))
        with watched():
            refused += isinstance(outcome(path), str)
    assert 50 < refused < 200


def test_reading_a_large_network_leaves_the_other_tensors_in_the_file(tmp_path):
    network = drawn(SmallResNet())
    path = write(tmp_path / "a.pt", as_bytes({"model": network.state_dict(), "optimizer": {"state": {0: BASE}}}))
    with open_torch_file(path) as opened:
        kept = opened.content["optimizer"]["state"][0]
        assert isinstance(kept, StoredTensor)
        assert torch.equal(opened.read(kept), BASE)

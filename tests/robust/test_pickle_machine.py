"""Pickles that would run something when loaded are read as data, and damaged ones are named."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pluriform.robust import pickle_machine
from pluriform.robust.pickle_machine import read_pickle
from pluriform.robust.stored_values import DamageError, Placeholder, Storage, StoredTensor

sys.path.insert(0, str(Path(__file__).parent))
from published import watched

CALLED = []


def trap(*arguments, **named):
    """Called by an honest unpickler; the reader never gets here."""
    CALLED.append((arguments, named))
    return trap


class Trap:
    """Notices being made, given a state, filled or called."""

    def __init__(self, *arguments):
        CALLED.append(arguments)

    def __setstate__(self, state):
        CALLED.append(state)

    __call__ = __setitem__ = append = extend = trap


@pytest.fixture(autouse=True)
def nothing_is_called():
    CALLED.clear()
    yield
    assert not CALLED


class Reduced:
    """Pickles as whatever it is given."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


HERE = f"{__name__}".encode()
TRAP = b"c" + HERE + b"\ntrap\n"
TRAP_CLASS = b"c" + HERE + b"\nTrap\n"
BY_HAND = {
    "reduce": TRAP + b"(S'x'\ntR.",
    "reduce of a reduce": TRAP + b"(tR(tR(tR.",
    "stack global": b"\x80\x04" + text(__name__) + text("trap") + b"\x93)R.",
    "dotted stack global": b"\x80\x04" + text("builtins") + text("eval.__call__") + b"\x93" + text("1") + b"\x85R.",
    "inst": b"(S'x'\ni" + HERE + b"\nTrap\n.",
    "obj": b"(" + TRAP_CLASS + b"S'x'\no.",
    "newobj": b"\x80\x02" + TRAP_CLASS + b")\x81.",
    "newobj ex": b"\x80\x04" + TRAP_CLASS + b")}\x92.",
    "build": TRAP_CLASS + b")\x81}S'x'\nI1\nsb.",
    "build with slots": TRAP_CLASS + b")\x81N}S'x'\nI1\ns\x86b.",
    "build of a global": TRAP + b"}S'__code__'\nN" + b"sb.",
    "append": TRAP_CLASS + b")\x81I1\na.",
    "appends": TRAP_CLASS + b")\x81(I1\nI2\ne.",
    "setitem": TRAP_CLASS + b")\x81I1\nI2\ns.",
    "setitems": TRAP_CLASS + b")\x81(I1\nI2\nu.",
    "additems": b"\x80\x04" + TRAP_CLASS + b")\x81(I1\n\x90.",
    "getattr chain": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'true'\ntR.",
    "in a dictionary": b"}S'state_dict'\n" + TRAP + b")Rs.",
    "as a key": b"}" + TRAP + b")RI1\ns.",
    "extension": b"\x82\x01)R.",
    "torch.load": b"ctorch.storage\n_load_from_bytes\n(" + b"S'x'\ntR.",
    "ordered dictionary as trap": b"ccollections\nOrderedDict\n(]((" + TRAP + b")RS'v'\nletR.",
    "defaultdict with a factory": b"ccollections\ndefaultdict\n(" + TRAP + b"tRS'a'\nI1\ns.",
    "namespace with __class__": b"cargparse\nNamespace\n)R}S'__class__'\n" + TRAP + b"sb.",
    "tensor of a type": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + TRAP + TRAP_CLASS + b")NtR.",
    "parameter of a trap": b"ctorch._utils\n_rebuild_parameter\n(" + TRAP + b")RI01\nNtR.",
    "encode with another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00rot_13tR.",
}
OBJECTS = {
    "os.system": Reduced(os.system, ("touch hacked",)),
    "eval": Reduced(eval, ("__import__('os').system('touch hacked')",)),
    "exec": Reduced(exec, ("open('hacked', 'w')",)),
    "open": Reduced(open, ("hacked", "w")),
    "Popen": Reduced(subprocess.Popen, (["touch", "hacked"],)),
    "torch.load": Reduced(torch.load, ("other.pt",)),
    "hub": Reduced(torch.hub.load, ("owner/repository", "model")),
    "items": Reduced(collections.OrderedDict, (), None, None, iter([("x", Reduced(os.system, ("touch hacked",)))])),
    "setter": Reduced(trap, (), {"a": 1}, None, None, trap),
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_a_pickle_written_by_hand_runs_nothing(name):
    with watched():
        value = read_pickle(BY_HAND[name])
    assert value is not trap
    assert not isinstance(value, Trap)


@pytest.mark.parametrize("name", ["reduce", "inst", "obj", "build", "stack global", "append"])
def test_the_same_pickles_do_run_in_an_honest_unpickler(name):
    sys.modules.setdefault(__name__, sys.modules[trap.__module__])
    with contextlib.suppress(TypeError, AttributeError):
        pickle.loads(BY_HAND[name])
    assert CALLED
    CALLED.clear()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_reduced_objects_run_nothing_in_any_protocol(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "items" and protocol < 2:
        OBJECTS[name].reduced = (*OBJECTS[name].reduced[:4], iter([("x", OBJECTS["os.system"])]))
    raw = pickle.dumps({"weights": 1, "inner": [OBJECTS[name]]}, protocol) if name != "items" else items(protocol)
    names: set[str] = set()
    with watched():
        value = read_pickle(io.BytesIO(raw), names=names, end=len(raw))
    assert value["weights"] == 1
    assert names
    assert not list(tmp_path.iterdir())


def items(protocol):
    """An ordered dictionary one of whose values would run a command."""
    content = {"weights": 1, "inner": [collections.OrderedDict(x=OBJECTS["os.system"])]}
    return pickle.dumps(content, protocol)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_as_python_reads_them(protocol):
    value = {
        "numbers": [0, 1, -1, 255, 65536, -(2**31), 2**70, -(2**200), 1.5, float("inf"), -0.0],
        "text": ["", "a", "ä\n€", "x" * 300, "y" * 70000],
        "flags": (True, False, None),
        "nested": {1: {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}},
        "shared": [[1]] * 3,
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    }
    read = read_pickle(pickle.dumps(value, protocol))
    assert read == value
    assert list(read["ordered"]) == ["b", "a"]
    assert read["shared"][0] is read["shared"][1]
    if protocol > 2:
        assert read_pickle(pickle.dumps(b"\x00\xff" * 200, protocol)) == b"\x00\xff" * 200
    if protocol > 3:
        assert sorted(read_pickle(pickle.dumps({3, 1, 2}, protocol))) == [1, 2, 3]


def test_bytes_of_the_second_protocol_come_back():
    assert read_pickle(pickle.dumps(b"\x00\xff", 2)) == b"\x00\xff"


def test_a_placeholder_stands_for_a_class_and_keeps_nothing():
    names: set[str] = set()
    stream = io.BytesIO(BY_HAND["build"])
    assert read_pickle(stream, names=names, end=len(BY_HAND["build"])) == Placeholder(f"{__name__}.Trap")
    assert names == {f"{__name__}.Trap"}


def test_an_unfit_persistent_id_is_damage():
    for raw in (b"Pabc\n.", b"S'abc'\nQ."):
        with pytest.raises(DamageError, match="persistent id"):
            read_pickle(raw)


BOMBS = {
    "length of a text beyond the file": b"X\xff\xff\xff\x7f" + b"a" * 10 + b".",
    "eight-byte length": b"\x8d" + b"\xff" * 7 + b"\x7f" + b"a.",
    "length of bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N",
    "number of a gigabyte": b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"\x01.",
    "negative length": b"\x8b\xff\xff\xff\xff.",
    "digits without end": b"L" + b"9" * 100_000 + b"L\n.",
    "no end": b"(" * 1000,
    "underflow": b"R.",
    "mark missing": b"]I1\ne.",
    "memo missing": b"h\x05.",
    "text without quotes": b"Sabc\n.",
    "unknown opcode": b"\xfe.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "no stop": pickle.dumps([1, 2, 3])[:-1],
    "item appended to a number": b"I1\nI2\na.",
    "entry set in a list": b"]I1\nI2\ns.",
    "call of a text": b"S'os.system'\n(tR.",
    "state of a list": b"]}b.",
    "pairs of odd number": b"}(I1\nu.",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_impossible_pickles_are_damage(name):
    with pytest.raises(DamageError):
        read_pickle(BOMBS[name])


def test_a_memo_place_of_four_billion_costs_nothing():
    assert read_pickle(b"I7\nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7


def test_deep_nesting_neither_overflows_nor_hangs():
    as_key = b"}" + b"N" + b"\x85" * 100_000 + b"I1\ns."  # Hashing this key overflows the stack of another unpickler.
    assert read_pickle(as_key) == {}


def test_an_object_that_holds_itself_is_read():
    value = read_pickle(b"]q\x00h\x00a.")
    assert value[0] is value


def test_copies_of_one_long_list_are_counted(monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPERATIONS", 50_000)
    pairs = b"](" + b"S'a'\nI1\n\x86" * 5_000 + b"eq\x00"
    raw = pairs + b"0(" + b"ccollections\nOrderedDict\nh\x00\x85R" * 1_000 + b"l."
    with pytest.raises(DamageError, match="operations"):
        read_pickle(raw)


def test_keys_that_collide_are_left_out():
    modulus = 2**61 - 1
    raw = pickle.dumps({modulus * k: k for k in range(1, 4)} | {5: 6})
    assert read_pickle(raw) == {5: 6}


def storage(identifier):
    return Storage(identifier, torch.float32, 12)


def tensor(offset, shape, stride):
    fields = b"".join(pickle.dumps(part, 2)[2:-1] for part in (offset, shape, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(S'0'\nQ" + fields + b"I00\n}tR."


def test_a_tensor_is_described_and_not_made():
    read = read_pickle(tensor(2, (2, 3), (3, 1)), storage)
    assert read == StoredTensor(Storage("0", torch.float32, 12), 2, (2, 3), (3, 1), torch.float32)
    assert read_pickle(tensor(0, (0, 7), (7, 1)), storage).numel == 0


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (13,), (1,)),
        (12, (1,), (1,)),
        (0, (2, 2), (12, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, (2**62,), (0,)),
        (True, (2,), (1,)),
        ("0", (2,), (1,)),
        (0, [2], [1]),
        (0, (1,) * 40, (1,) * 40),
    ],
)
def test_a_tensor_that_cannot_be_is_damage(offset, shape, stride):
    with pytest.raises(DamageError, match="tensor"):
        read_pickle(tensor(offset, shape, stride), storage)


def test_every_opcode_is_known_or_refused():
    known = {operation.name for operation in pickletools.opcodes}
    assert len(known) >= 68
    for operation in pickletools.opcodes:
        raw = b"\x80\x04N" + operation.code.encode("latin-1") + b"\x00" * 16 + b"."
        with contextlib.suppress(DamageError):
            assert read_pickle(raw) != operation


def test_names_from_a_file_are_fit_to_print():
    raw = b"c" + b"a" * 500 + b"\nb\n."
    assert len(read_pickle(raw).name) < 130
    value = read_pickle(b"\x80\x04" + text("os\x1b[2J") + text("system") + b"\x93.")
    assert "\x1b" not in value.name

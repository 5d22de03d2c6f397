import re
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager, suppress

import numpy as np
import psutil
import pytest
import torch
import zarr
from torch import nn

from pluriform.errors import (
    ConfigError,
    CorruptFileError,
    MemoryBudgetError,
    NonFiniteError,
    RunBusyError,
    RunConflictError,
    RunError,
    TaskError,
)
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.store.estimate import estimate_store, tile_for
from pluriform.infinite.store.files import Files
from pluriform.infinite.store.grid import Grid, Tile
from pluriform.infinite.store.stored import open_kernel
from pluriform.infinite.store.write import kernel_store

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(11, 2, 4, 4, generator=GENERATOR)
Z = torch.randn(7, 2, 4, 4, generator=GENERATOR)


def function_of(weight_var=2.0, width=4, seed=0, **options):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)
    )
    return kernel_of(net, X[:2], weight_var=weight_var, **options)


class Plain:
    """The kernel from the plain propagation in float64, rounded: independent of faster engines.

    Counts pairs, those of the two samples of noise apart that tell functions from each other.
    """

    def __init__(self, function):
        self.function, self.pairs = function, 0

    def __call__(self, x1, x2=None, *, dtype, **options):
        if len(x1) != 2 or x2 is not None:
            self.pairs += len(x1) * (len(x1) + 1) // 2 if x2 is None else len(x1) * len(x2)
        found = self.function(x1, x2, dtype=torch.float64, **options)
        parts = ("nngp", "ntk", "variance1", "variance2")
        return found.replace(
            **{name: getattr(found, name).to(dtype) for name in parts if getattr(found, name) is not None}
        )


@pytest.fixture(scope="module")
def exact():
    return function_of()


@pytest.fixture
def function(exact):
    return Plain(exact)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "k.zarr"


@pytest.mark.parametrize("tile", [1, 4, 5, 11, 100])
@pytest.mark.parametrize("mirrored", [True, False])
def test_symmetric_ragged_tiles_hold_the_kernel(function, path, tile, mirrored):
    kernel = kernel_store(path, function, X, tile=tile, mirrored=mirrored)
    assert function.pairs == 11 * 12 // 2
    wanted = function.function(X)
    for name in ("nngp", "ntk"):
        found = np.asarray(getattr(kernel, name))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, getattr(wanted, name), rtol=1e-5)
        np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(kernel.variance1, wanted.nngp.diagonal(), rtol=1e-5)
    np.testing.assert_array_equal(kernel.variance2, kernel.variance1)


@pytest.mark.parametrize("tile", [3, 7, 9])
def test_rectangular_tiles_and_both_variances(function, path, tile):
    kernel = kernel_store(path, function, X, Z, tile=tile, dtype=torch.float64)
    wanted = function.function(X, Z)
    np.testing.assert_allclose(np.asarray(kernel.nngp), wanted.nngp, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(kernel.ntk), wanted.ntk, rtol=1e-12)
    np.testing.assert_allclose(kernel.variance1, function.function(X).nngp.diagonal(), rtol=1e-12)
    np.testing.assert_allclose(kernel.variance2, function.function(Z).nngp.diagonal(), rtol=1e-12)
    assert kernel.shape == (11, 7)


def test_plain_zarr_reads_it_and_its_size_is_as_estimated(function, path):
    estimate = estimate_store(function, X, tile=4)
    kernel = kernel_store(path, function, X, tile=4, facts={"network": "cnn"}, beside={"targets": np.arange(11)})
    group = zarr.open_group(path, mode="r")
    np.testing.assert_allclose(group["ntk"][:], function.function(X).ntk, rtol=1e-5)
    assert group.metadata.zarr_format == 3
    assert kernel.facts == {"network": "cnn"}
    np.testing.assert_array_equal(kernel.beside("targets"), np.arange(11))
    with pytest.raises(RunError, match=r"expected one of .*targets.*; got 'labels'"):
        kernel.beside("labels")
    chunks = sum(file.stat().st_size for name in ("nngp", "ntk") for file in (path / name / "c").rglob("*/*"))
    assert estimate.mib * 2**20 == chunks == 2 * 9 * (4 * 4 * 4 + 4)
    assert (estimate.pairs, estimate.tiles) == (66, 6)


def test_half_a_store_holds_no_tile_below_the_diagonal(function, path):
    kernel_store(path, function, X, tile=4, mirrored=False)
    stored = zarr.open_group(path, mode="r")["nngp"][:]
    blocks = np.arange(11) // 4
    np.testing.assert_array_equal(np.isnan(stored), blocks[:, None] > blocks[None, :])


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        (3, 9), (-1, 0), 5, slice(2, 9), (slice(None, None, -2), slice(8, 1, -3)), ([7, 0, 7, 3], slice(1, None)),
        (np.array([10, 2]), 4), (slice(5, 5), slice(None)), (np.arange(11) % 3 == 0, np.arange(11) > 6),
    ],
)  # fmt: skip
def test_parts_are_read_as_numpy_would(function, path, key, mirrored):
    kernel = kernel_store(path, function, X, tile=4, mirrored=mirrored)
    whole = np.asarray(kernel.ntk)
    rows, columns = key if isinstance(key, tuple) else (key, slice(None))
    np.testing.assert_array_equal(kernel.ntk[key], whole[rows][..., columns])
    assert kernel.ntk[key].shape == whole[rows][..., columns].shape


def test_indices_outside_are_refused(function, path):
    kernel = kernel_store(path, function, X, tile=4, ntk=False)
    assert kernel.ntk is None
    with pytest.raises(IndexError):
        kernel.nngp[11, 0]
    with pytest.raises(IndexError, match="two axes, not 3"):
        kernel.nngp[0, 0, 0]


@pytest.mark.parametrize("workers", ["processes"])
def test_other_processes_write_the_same_bits(exact, tmp_path, workers):
    seen, options = [], {"tile": 5, "dtype": torch.float64}
    here = kernel_store(tmp_path / "here.zarr", exact, X, Z, **options)
    there = kernel_store(tmp_path / "there.zarr", exact, X, Z, **options, workers=workers, tell=seen.append)
    np.testing.assert_array_equal(np.asarray(here.ntk), np.asarray(there.ntk))
    assert not list((tmp_path / "there.zarr").glob(".inputs*"))
    assert [now.tiles_done for now in seen] == list(range(7))
    assert seen[-1].seconds_left == 0
    assert seen[-1].pairs_done == seen[-1].pairs == 77
    assert seen[-1].pairs_per_second > 0


def test_only_missing_and_damaged_tiles_are_computed_again(function, path):
    reference = np.asarray(kernel_store(path, function, X, tile=4).ntk)
    counted = Plain(function.function)
    kernel_store(path, counted, X, tile=4)
    assert counted.pairs == 0
    cut = path / "ntk/c/0/1"
    cut.write_bytes(cut.read_bytes()[:30])
    flipped = path / "nngp/c/2/1"
    content = bytearray(flipped.read_bytes())
    content[5] ^= 16
    flipped.write_bytes(content)
    (path / "done/c/0/0").unlink()
    (path / "ntk/c/2/2").unlink()
    kernel = kernel_store(path, counted, X)
    assert counted.pairs == 16 + 12 + 10 + 6
    np.testing.assert_array_equal(np.asarray(kernel.ntk), reference)


def test_a_damaged_tile_is_named_when_it_is_read(function, path):
    kernel = kernel_store(path, function, X, tile=4)
    chunk = path / "nngp/c/2/1"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert kernel.nngp[0, 0] > 0
    with pytest.raises(CorruptFileError, match=r"(?s)nngp of .*tile \(2, 1\).*only damaged tiles are computed again"):
        kernel.nngp[10, 5]
    (path / "zarr.json").write_text("{")
    with pytest.raises(CorruptFileError, match="a Zarr group"):
        open_kernel(path)


def test_a_tile_whose_file_is_gone_is_named_when_it_is_read(function, path):
    kernel = kernel_store(path, function, X, tile=4)
    (path / "ntk/c/1/1").unlink()
    assert kernel.nngp[5, 5] > 0
    with pytest.raises(CorruptFileError, match=r"(?s)ntk of .*tile \(1, 1\).*only damaged tiles are computed again"):
        kernel.ntk[5, 5]


def test_a_small_change_of_the_nngp_is_another_kernel_where_the_ntk_is_large(path):
    """In the standard parameterisation the NTK is hundreds of times the NNGP, and a bias of the head is in one only."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    net.append(nn.Linear(512, 3))
    made = {var: kernel_of(net, X[:2], overrides={"5": (2.0, var)}, parameterization="standard") for var in (0.0, 0.05)}
    kernel_store(path, made[0.0], X, tile=4)
    assert float(made[0.0](X).ntk.max()) > 200 * float(made[0.0](X).nngp.max())
    with pytest.raises(RunConflictError, match="the network or its variances differ"):
        kernel_store(path, made[0.05], X)


def test_the_weights_of_the_network_do_not_count_but_all_else_does(function, path):
    facts = {"network": "cnn", "weight_var": 2.0}
    kernel_store(path, function, X, tile=4, facts=facts)
    same = kernel_store(path, Plain(function_of(seed=1)), X.clone(), facts=facts)
    assert same.shape == (11, 11)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    others = {
        r"the network or its variances differ; weight_var was 2.0 and is 1.9": {"function": Plain(function_of(1.9))},
        r"got another fingerprint: the network or its variances differ": {
            "function": Plain(function_of(parameterization="standard"))
        },
        r"the first samples differ": {"x1": X.flip(0)},
        r"the first samples and the number of samples differ": {"x1": X[:10]},
        r"the second samples and the number of samples differ": {"x2": Z},
        r"which kernels differ": {"ntk": False},
        r"the precision differ": {"dtype": torch.float64},
        r"whether both halves are stored differ": {"mirrored": False},
        r"expected tile=4, as the store has it; got tile=5": {"tile": 5},
    }
    for words, changed in others.items():
        arguments = {"function": function, "x1": X} | changed
        given = facts | ({"weight_var": 1.9} if "1.9" in words else {})
        with pytest.raises(RunConflictError, match=re.escape(words) if "was" in words else words):
            kernel_store(path, facts=given, **arguments)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_other_things_at_the_path_are_left_alone(function, path):
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"a folder without zarr.json.*nothing was changed"):
        kernel_store(path, function, X, tile=4)
    assert [file.name for file in path.iterdir()] == ["letter.txt"]
    (path / "letter.txt").unlink()
    kernel_store(path, function, X, tile=4)
    shutil.rmtree(path)
    zarr.open_group(path, mode="w").attrs["of"] = "someone"
    with pytest.raises(RunError, match="a store of format"):
        kernel_store(path, function, X, tile=4)
    with pytest.raises(RunError, match="got nothing"):
        open_kernel(path / "nowhere")


def test_two_writers_are_refused(function, path):
    kernel_store(path, function, X, tile=4)
    files = Files.of(path, Files.attributes(path))
    with files.locked(), pytest.raises(RunBusyError, match="wait for the other process"):
        kernel_store(path, function, X, tile=4)
    kernel_store(path, function, X, tile=4)


def test_room_on_disk_and_in_memory_is_estimated_before_starting(function, path, monkeypatch):
    usage = shutil.disk_usage(path.parent)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        words = r"of what the disk has free.*MiB for 6 tiles.*store one kernel or half of it"
        with pytest.raises(RunError, match=words):
            kernel_store(path, function, X, tile=4)
    assert not path.exists()
    memory = psutil.virtual_memory()._replace(available=5000)
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: memory)
        with pytest.raises(MemoryBudgetError, match=r"tiles of 11 x 11, 2 at a time.*take tiles of at most 6"):
            kernel_store(path, function, X, tile=11)
    kernel = kernel_store(path, function, X, tile=4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=100))
    with pytest.raises(MemoryBudgetError, match=r"for 121 entries.*read a part"):
        np.asarray(kernel.ntk)
    assert kernel.ntk[2:4, 3].shape == (2,)


def test_a_full_disk_keeps_what_is_finished(function, path, monkeypatch):
    write, wrote = Files.write, []

    def full(self, tile, parts, sides):
        wrote.append(tile)
        if len(wrote) == 4:
            monkeypatch.setattr("zarr.storage._local._put", raising)
        write(self, tile, parts, sides)

    def raising(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Files, "write", full)
        with pytest.raises(RunError, match=r"No space left.*free some space.*finished tiles are kept"):
            kernel_store(path, function, X, tile=4)
    monkeypatch.undo()
    with pytest.raises(RunError, match="expected a finished store; got one with 3 of 6 tiles"):
        open_kernel(path)
    counted = Plain(function.function)
    kernel = kernel_store(path, counted, X, tile=4)
    assert counted.pairs == 10 + 12 + 6
    np.testing.assert_allclose(np.asarray(kernel.ntk), function.function(X).ntk, rtol=1e-5)


def test_wrong_arguments_and_infinite_values(function, path):
    with pytest.raises(ConfigError, match="nngp or ntk"):
        kernel_store(path, function, X, nngp=False, ntk=False)
    with pytest.raises(ConfigError, match="float32 or float64"):
        kernel_store(path, function, X, dtype=torch.float16)
    with pytest.raises(ConfigError, match="a tile of 1 sample or more"):
        kernel_store(path, function, X, tile=-1)
    with pytest.raises(ConfigError, match="a tile of 1 sample or more; got 0"):
        kernel_store(path, function, X, tile=0)
    bad = X.clone()
    bad[3, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or infinity in sample 3"):
        kernel_store(path, function, X, bad)
    with pytest.raises(NonFiniteError, match=r"(?s)a finite nngp.*tile \(0, 0\).*use float64"):
        kernel_store(path, function, 1e30 * X, 1e30 * Z, tile=4)

    def closure(x1, x2=None, **options):
        return function(x1, x2, **options)

    with pytest.raises(ConfigError, match="a function that pickle can name"):
        kernel_store(path.with_name("b.zarr"), closure, X, tile=4, workers="processes")

    class Failing(Plain):
        def __call__(self, x1, x2=None, **options):
            if x2 is not None:
                raise ZeroDivisionError("so it goes")
            return super().__call__(x1, x2, **options)

    with pytest.raises(TaskError, match="ZeroDivisionError: so it goes"):
        kernel_store(path.with_name("c.zarr"), Failing(function.function), X, Z, tile=4)


def test_tiles_of_a_grid_cover_every_pair_once():
    for n1, n2, side, symmetric in ((11, 11, 4, True), (11, 7, 3, False), (5, 5, 5, True), (4, 9, 100, False)):
        grid, seen = Grid(n1, n2, side, symmetric), np.zeros((n1, n2), int)
        for tile in grid.tiles:
            seen[grid.rows(tile.i), grid.columns(tile.j)] += 1
            if symmetric and tile.i != tile.j:
                seen[grid.columns(tile.j), grid.rows(tile.i)] += 1
        assert (seen == 1).all()
        assert sum(map(grid.pairs, grid.tiles)) == (n1 * (n1 + 1) // 2 if symmetric else n1 * n2)
    assert Grid(5, 9, 4, False).pairs(Tile(1, 2)) == 1


def test_tiles_last_some_fifteen_seconds():
    assert tile_for(0.5, 10_000, 10_000) == 16
    assert 6 <= tile_for(200.0, 10_000, 10_000) ** 2 / 200.0 <= 35
    assert tile_for(1e9, 50_000, 50_000) == 2048
    assert tile_for(1e9, 300, 700) == 700


SCRIPT = """
    import sys, time
    import torch
    from torch import nn
    from pluriform.infinite.kernel_function import kernel_of
    from pluriform.infinite.store.write import kernel_store

    torch.manual_seed(0)
    x = torch.randn(60, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    function = kernel_of(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), *head), x[:2])

    def tell(now):
        print(now.tiles_done, flush=True)
        time.sleep(0.02)

    if __name__ == "__main__":
        kernel_store(sys.argv[1], function, x, tile=8, dtype=torch.float64, tell=tell, workers=sys.argv[2])
        print("finished", flush=True)
"""


@contextmanager
def started(script, path, workers="serial"):
    words = [sys.executable, str(script), str(path), workers]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process


def killed(script, path, workers, tiles):
    """Start, and kill with all workers as soon as that many tiles are done; returns how many were."""
    with started(script, path, workers) as process:
        done = next(int(line) for line in process.stdout if int(line) >= tiles)
        everyone = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in everyone:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(everyone, timeout=10)
    return done


@pytest.mark.parametrize("workers", ["serial", pytest.param("processes", marks=pytest.mark.slow)])
def test_kill_9_in_the_middle_and_going_on_gives_the_same_bits(tmp_path, workers, monkeypatch):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    done = killed(tmp_path / "script.py", tmp_path / "killed.zarr", workers, 9)
    with pytest.raises(RunError, match=r"got one with \d+ of 36 tiles"):
        open_kernel(tmp_path / "killed.zarr")
    (tmp_path / "killed.zarr/ntk/c/0/0.1234.partial").write_bytes(b"torn")
    torn = tmp_path / "killed.zarr/nngp/c/0/0"
    torn.write_bytes(torn.read_bytes()[:100])
    monkeypatch.syspath_prepend(tmp_path)
    import script

    told = []
    whole = kernel_store(tmp_path / "whole.zarr", script.function, script.x, tile=8, dtype=torch.float64)
    resumed = kernel_store(tmp_path / "killed.zarr", script.function, script.x, dtype=torch.float64, tell=told.append)
    assert 9 <= done <= told[0].tiles_done + 1 < 36
    for name in ("nngp", "ntk", "variance1", "variance2"):
        np.testing.assert_array_equal(np.asarray(getattr(resumed, name)), np.asarray(getattr(whole, name)))
    assert not list((tmp_path / "killed.zarr").rglob("*.partial"))
    del sys.modules["script"]


def test_control_c_leaves_a_store_that_goes_on(tmp_path):
    script = tmp_path / "script.py"
    listening = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(listening + textwrap.dedent(SCRIPT))
    with started(script, tmp_path / "k.zarr") as process:
        next(line for line in process.stdout if int(line) >= 5)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    files = Files.of(tmp_path / "k.zarr", Files.attributes(tmp_path / "k.zarr"))
    assert 5 <= len(files.finished()) < 36

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr

import pluriform as pf
from pluriform.cli.main import main
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.store.stored import open_kernel

EXACT = ["--dtype", "float64"]  # The plain propagation: nothing to compile.


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def digits():
    return pf.load("digits")


def function_of(data, **options):
    return kernel_of(pf.nets.build("mlp", data, seed=9).eval(), data.train.inputs[:2], **options)


def test_both_blocks_with_targets_estimate_and_table(capsys, digits):
    words = ["kernel", "digits", "--net", "mlp", "--samples", "60", "--test", "21", "--tile", "25", "--out", "k.zarr"]
    words += ["--weight-var", "1.8", "--bias-var", "0.1", *EXACT]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "k.zarr: 1,830 pairs at" in shown.err
    assert "in 6 tiles of 25" in shown.err
    assert "k.zarr/test: 1,260 pairs at" in shown.err
    train, test = open_kernel("k.zarr"), open_kernel("k.zarr/test")
    x, y = digits.train.batch(torch.from_numpy(train.beside("index1")))
    z, t = digits.test.batch(torch.from_numpy(test.beside("index1")))
    assert (len(x), len(z)) == (60, 21)
    np.testing.assert_array_equal(train.beside("targets1"), y)
    np.testing.assert_array_equal(test.beside("targets1"), t)
    np.testing.assert_array_equal(test.beside("targets2"), y)
    function = function_of(digits, weight_var=1.8, bias_var=0.1)
    for name in ("nngp", "ntk"):
        np.testing.assert_allclose(np.asarray(getattr(train, name)), getattr(function(x), name), rtol=1e-12)
        np.testing.assert_allclose(np.asarray(getattr(test, name)), getattr(function(z, x), name), rtol=1e-12)
    assert train.facts["network"] == "mlp"
    assert train.facts["weight_var"] == 1.8
    table = {tuple(cell.strip() for cell in line.split("│")[1:5]) for line in shown.out.splitlines() if "│" in line}
    assert ("train", "ntk", "60 x 60", "3,600") in table
    assert ("test", "nngp", "21 x 60", "1,260") in table
    condition = np.linalg.cond(np.asarray(train.ntk))
    assert f"{condition:.1e}" in shown.out
    assert "store: k.zarr" in shown.out


def test_the_same_samples_as_the_infinitely_wide_form_draws():
    assert main(["kernel", "digits", "--net", "mlp", "--samples", "40", "--seed", "3", "--out", "k.zarr", *EXACT]) == 0
    index = torch.from_numpy(open_kernel("k.zarr").beside("index1"))
    data = pf.load("digits", seed=3)
    form = pf.InfiniteWidth(samples=40).fit(pf.nets.build("mlp", data), data, seed=3)
    assert any(torch.equal(tensor, data.train.inputs[index]) for tensor in form.buffers())


def test_one_kernel_in_half_a_store_in_float32(capsys, digits):
    words = ["kernel", "digits", "--net", "mlp", "--split", "validation", "--kernel", "ntk", "--half", "--tile", "50"]
    assert main([*words, "--out", "k.zarr", "--parameterization", "standard"]) == 0
    stored = open_kernel("k.zarr")
    wanted = function_of(digits, parameterization="standard")(digits.validation.inputs).ntk
    assert stored.nngp is None
    assert stored.ntk.dtype == np.float32
    np.testing.assert_allclose(np.asarray(stored.ntk), wanted, rtol=1e-4)
    assert np.isnan(zarr.open_group("k.zarr", mode="r")["ntk"][143, 0])
    assert "singular" not in capsys.readouterr().out


def test_duplicates_show_as_a_singular_kernel(capsys, tmp_path):
    rows = np.eye(6, 4).repeat(3, 0)
    lines = [",".join([*(f"{value:g}" for value in row), "ab"[i % 2]]) for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,d,target", *lines]))
    assert main(["kernel", "t.csv", "--target", "target", "--net", "mlp", "--out", "k.zarr", *EXACT]) == 0
    assert "singular: use a ridge" in capsys.readouterr().out


def test_errors_leave_what_is_there(capsys):
    words = ["kernel", "digits", "--net", "mlp", "--samples", "20", "--out", "k.zarr", *EXACT]
    assert main(words) == 0
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "finished before" in shown.err
    assert main([*words, "--weight-var", "1.5"]) == 1
    assert "weight_var was 2.0 and is 1.5" in capsys.readouterr().err
    assert main([*words, "--seed", "1"]) == 1
    assert "the first samples differ" in capsys.readouterr().err
    assert main(["kernel", "digits", "--net", "resnet20", "--out", "r.zarr"]) == 1
    assert "blocks.0.relu" in capsys.readouterr().err
    assert main([*words, "--samples", "0"]) == 1
    assert "expected 1 sample or more; got 0 (--samples)" in capsys.readouterr().err
    assert main([*words, "--kernel", "rbf"]) == 2
    assert main(["kernel", "digits", "--net", "mlp", "--weight-var", "-1", "--out", "n.zarr"]) == 1
    assert "finite variances of 0 or more" in capsys.readouterr().err
    assert open_kernel("k.zarr").shape == (20, 20)


def test_kill_9_and_the_same_command_again(capsys, tmp_path):
    flags = ["digits", "--net", "mlp", "--samples", "70", "--tile", "10", *EXACT]
    command = [sys.executable, "-m", "pluriform.cli.main", "kernel", *flags, "--out", "killed.zarr"]
    marks = tmp_path / "killed.zarr/done/c"

    def done():
        return len(list(marks.glob("*/*")))

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 120
        while done() < 6 and time.monotonic() < limit:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = done()
    assert 6 <= before < 28
    old = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed.zarr/ntk/c").glob("*/*")}
    assert main(["kernel", *flags, "--out", "killed.zarr"]) == 0
    assert "goes on" in capsys.readouterr().err
    kept = sum(path.stat().st_mtime_ns == time_ns for path, time_ns in old.items())
    assert kept >= before
    assert main(["kernel", *flags, "--out", "whole.zarr"]) == 0
    for name in ("nngp", "ntk", "variance1", "variance2"):
        a, b = (np.asarray(getattr(open_kernel(path), name)) for path in ("killed.zarr", "whole.zarr"))
        np.testing.assert_array_equal(a, b)


def test_a_network_of_the_user_in_other_processes(tmp_path):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
        "def build(data):\n"
        "    return Net()\n"
    )
    words = ["kernel", "digits", "--net", "own_net:build", "--samples", "30", "--tile", "16", "--out", "k.zarr", *EXACT]
    assert main([*words, "--workers", "processes"]) == 0
    here = open_kernel("k.zarr")
    assert main([*words[:-3], "other.zarr", *EXACT]) == 0
    np.testing.assert_array_equal(np.asarray(here.ntk), np.asarray(open_kernel("other.zarr").ntk))
    assert json.loads((tmp_path / "k.zarr/zarr.json").read_text())["attributes"]["facts"]["network"] == "own_net:build"


def test_the_overview_stays_light():
    code = "import sys; from pluriform.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0

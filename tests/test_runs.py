import json
import os
import subprocess
import sys

import pytest
import torch

from pluriform.errors import CorruptFileError, RunBusyError, RunConflictError, RunError
from pluriform.runs import Run, replace_file


def test_a_second_opening_sees_what_the_first_wrote(tmp_path):
    with Run(tmp_path / "run", {"seed": 1}) as run:
        run.write_json("a.json", {"x": 0.1 + 0.2})
        run.write_tensors("w.safetensors", {"w": torch.arange(3.0)}, {"epoch": "4"})
        run.append({"epoch": 1})
        assert not run.done
        run.mark_done()
    with Run(tmp_path / "run", {"seed": 1}) as run:
        assert run.done
        assert run.read_json("a.json") == {"x": 0.1 + 0.2}
        assert torch.equal(run.read_tensors("w.safetensors")["w"], torch.arange(3.0))
        assert run.read_lines() == [{"epoch": 1}]


@pytest.mark.parametrize("work", ["checkpoint", "log.jsonl", "form", ".hidden", "child"])
def test_another_configuration_is_refused_by_name_and_nothing_is_overwritten(tmp_path, work):
    with Run(tmp_path / "run", {"seed": 1, "epochs": 3}) as run:
        {"log.jsonl": lambda: run.append({}), "child": lambda: run.child("child", {}).close()}.get(
            work, (run.path / work).mkdir
        )()
    with pytest.raises(RunConflictError, match=r"seed=1; got seed=2 .*nothing was overwritten"):
        Run(tmp_path / "run", {"seed": 2, "epochs": 3})
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"seed": 1, "epochs": 3}
    assert (tmp_path / "run" / work).exists()
    Run(tmp_path / "run", {"seed": 1, "epochs": 3}).close()


def test_a_configuration_of_which_no_work_is_kept_is_replaced(tmp_path):
    Run(tmp_path / "run", {"seed": 1}).close()
    (tmp_path / "run" / ".checkpoint.abcd1234").mkdir()  # A rest of a killed process.
    with Run(tmp_path / "run", {"seed": 2}) as run:
        assert run.read_json("run.json") == {"seed": 2}
        with pytest.raises(RunBusyError):
            Run(tmp_path / "run", {"seed": 3})
        run.append({})
    with pytest.raises(RunConflictError, match=r"seed=2; got seed=1"):
        Run(tmp_path / "run", {"seed": 1})


def test_only_the_nested_keys_that_differ_are_told(tmp_path):
    def config(rate, widths, **more):
        return {
            "seed": 1,
            "method": {"class": "a:B", "training": {"rate": rate, "epochs": 3}, "widths": widths, **more},
        }

    with Run(tmp_path / "run", config(0.1, [4, 8])) as run:
        run.append({})

    def told(other):
        with pytest.raises(RunConflictError) as kept:
            Run(tmp_path / "run", other)
        return str(kept.value).split(f" ({tmp_path}")[0]

    assert told(config(0.2, [4, 8])) == (
        "expected the configuration stored there, method.training.rate=0.1; got method.training.rate=0.2"
    )
    assert told(config(0.1, [4, 6, 2], crop=None)) == (
        "expected the configuration stored there, method.crop=nothing, method.widths.1=8, method.widths.2=nothing; "
        "got method.crop=None, method.widths.1=6, method.widths.2=2"
    )
    assert told({}).endswith("method.widths.0=nothing (and 2 more)")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(RunError, match="a folder without run.json"):
        Run(tmp_path / "photos", {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="got a file"):
        Run(tmp_path / "file", {})
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["cat.png"]


def test_a_run_held_by_another_process_is_refused(tmp_path):
    code = "import sys; from pluriform.runs import Run; r = Run(sys.argv[1], {}); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match="wait for the other process"):
            Run(tmp_path / "run", {})
    finally:
        holder.communicate("\n")
    Run(tmp_path / "run", {}).close()


def test_damaged_files_name_themselves(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        (run.path / "a.json").write_text('{"x": ')
        with pytest.raises(CorruptFileError, match=r"expected a JSON file.*a\.json.*delete this file"):
            run.read_json("a.json")
        run.write_tensors("w.safetensors", {"w": torch.ones(100)})
        whole = (run.path / "w.safetensors").read_bytes()
        (run.path / "w.safetensors").write_bytes(whole[:-50])
        with pytest.raises(CorruptFileError, match=r"safetensors file.*w\.safetensors"):
            run.read_tensors("w.safetensors")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rest(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(OSError, match="No space"), replace_file(target) as temporary:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_rests_of_a_killed_process_are_swept(tmp_path):
    Run(tmp_path / "run", {}).close()
    (tmp_path / "run" / ".a.json.abcd1234").write_text("half")
    (tmp_path / "run" / ".form.abcd1234").mkdir()
    Run(tmp_path / "run", {}).close()
    assert sorted(os.listdir(tmp_path / "run")) == [".lock", "run.json"]


def test_a_line_cut_short_is_left_out_of_the_log(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        run.append({"epoch": 1})
        with (run.path / "log.jsonl").open("a") as stream:
            stream.write('{"epoch": 2, "lo')
        assert run.read_lines() == [{"epoch": 1}]


def test_a_damaged_configuration_names_a_remedy_that_works_and_releases_the_folder(tmp_path):
    Run(tmp_path / "run", {"seed": 1}).close()
    (tmp_path / "run" / "run.json").write_text('{"se')
    with pytest.raises(CorruptFileError, match="name another run folder, or delete this one") as kept:
        Run(tmp_path / "run", {"seed": 1})
    with pytest.raises(CorruptFileError):
        Run(tmp_path / "run", {"seed": 1})
    assert kept.value is not None

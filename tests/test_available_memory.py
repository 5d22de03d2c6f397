"""What can be had, inside a control group too, and what the system ended."""

import math

import psutil
import pytest

from pluriform import available_memory as file
from pluriform.available_memory import available_memory, memory_kills


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group in a folder; writes its files."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"memory.{name}").write_text(text)

    monkeypatch.setattr(file, "GROUPS", ((str(tmp_path), "memory.max", "memory.current", "inactive_file"),))
    return write


def test_without_a_group_it_is_what_the_machine_has(group):
    assert file._room_of_group() == math.inf
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_a_group_without_a_limit_limits_nothing(group):
    group(max="max\n", current="1000\n")
    assert file._room_of_group() == math.inf


def test_the_limit_of_a_group_counts_and_cached_files_can_be_had_back(group):
    group(max="5000000\n", current="4000000\n", stat="anon 100\ninactive_file 300000\nactive_file 7\n")
    assert available_memory() == 1_300_000
    group(current="6000000\n", stat="inactive_file 300000\n")
    assert available_memory() == 0


def test_kills_are_counted_by_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "STATISTICS", tmp_path / "vmstat")
    assert memory_kills() == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 12\n")
    assert memory_kills() == 12

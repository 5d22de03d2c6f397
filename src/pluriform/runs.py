"""A run on disk: configuration, weights, log and results of one piece of work, every file written atomically.

run/
  run.json          the configuration; another one is refused as soon as anything else is there
  checkpoint/       what a killed process resumes from
  log.jsonl         one JSON object a line
  form/             the fitted form
  result.json       the figures
  done              written last
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pluriform.errors import CorruptFileError, RunBusyError, RunConflictError, RunError, explain

__all__ = ["Run", "replace_file", "replace_folder"]

BARE = {"run.json", ".lock"}  # Of a run of which no work is kept.
TOLD = 4  # Differences that a message names.
NOTHING = "nothing"


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of `path`; on success flush it to disk and move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour folder; on success it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        if path.exists():
            retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
            path.replace(retired / path.name)
            temporary.replace(path)
            shutil.rmtree(retired)
        else:
            temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Run:
    """The folder of one piece of work, opened for one configuration.

    Args:
        path: The folder; made when missing.
        config: What the work is (method, network, data fingerprint, seed), as plain JSON.

    Raises:
        RunConflictError: The folder holds work of another configuration; nothing is touched. A configuration alone, of
            work that was refused before it began, is replaced.
        RunBusyError: Another process has the folder open.
        RunError: The folder exists, is not empty and is not a run.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps(config, sort_keys=True))
        self._refuse_foreign_folder()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._acquire_lock()
        try:
            self._sweep()
            stored = self.read_json("run.json") if self.has("run.json") else None
            if stored != self.config:
                if self.has("run.json") and not self._bare():
                    raise self._other_config(stored)
                self.write_json("run.json", self.config)
        except BaseException:
            self.close()
            raise

    def _refuse_foreign_folder(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir() or (
            not self.has("run.json") and any(not p.name.startswith(".") for p in self.path.iterdir())
        ):
            raise RunError(
                explain(
                    "a run folder, an empty folder or a new path",
                    "a file" if not self.path.is_dir() else "a folder without run.json",
                    str(self.path),
                    "name another path; nothing was changed",
                )
            )

    def _acquire_lock(self) -> int:
        lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise RunBusyError(
                explain("a run nobody else is writing", "a locked run", str(self.path), "wait for the other process")
            ) from None
        return lock

    def _sweep(self) -> None:
        """Remove the temporary files and folders that a killed process left."""
        for left in [*self.path.glob(".*.????????"), *self.path.glob("*/.*.????????")]:
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def _bare(self) -> bool:
        """Whether nothing was done: the folder holds a configuration at most."""
        return {path.name for path in self.path.iterdir()} <= BARE

    def _other_config(self, stored: Any) -> RunConflictError:
        expected, got = _leaves(stored), _leaves(self.config)
        keys = sorted(key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key))
        more = f" (and {len(keys) - TOLD} more)" if len(keys) > TOLD else ""
        return RunConflictError(
            explain(
                "the configuration stored there, " + _told(expected, keys[:TOLD]),
                _told(got, keys[:TOLD]) + more,
                str(self.path),
                "name another run folder, or delete this one; nothing was overwritten",
            )
        )

    def close(self) -> None:
        """Release the folder for other processes; safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, name: str, config: Mapping[str, Any]) -> "Run":
        """A run inside this one, for a part of its work."""
        return Run(self.path / name, config)

    def has(self, name: str) -> bool:
        """Whether the run holds the file or folder `name`."""
        return (self.path / name).exists()

    @property
    def done(self) -> bool:
        """Whether the work was finished."""
        return self.has("done")

    def mark_done(self) -> None:
        """Write the last file; a run without it is resumed."""
        self.write_json("done", True)

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as JSON; numbers keep all their digits."""
        with replace_file(self.path / name) as temporary:
            temporary.write_text(json.dumps(value, indent=1, sort_keys=True))

    def read_json(self, name: str) -> Any:
        """Read JSON; a damaged file raises `CorruptFileError`."""
        try:
            return json.loads((self.path / name).read_text())
        except (ValueError, UnicodeDecodeError) as error:
            raise self._corrupt(name, "JSON", error) from None

    def write_tensors(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write tensors as safetensors."""
        with replace_file(self.path / name) as temporary:
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
                temporary,
                dict(metadata or {}),
            )

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read tensors; a damaged file raises `CorruptFileError`."""
        try:
            # Copies lie aligned in memory, as computed tensors do: otherwise sums may differ in the last bit.
            return {key: tensor.clone() for key, tensor in load_file(self.path / name).items()}
        except (SafetensorError, ValueError) as error:
            raise self._corrupt(name, "safetensors", error) from None

    def append(self, record: Mapping[str, Any], name: str = "log.jsonl") -> None:
        """Append one line of JSON to a log."""
        with (self.path / name).open("a") as stream:
            stream.write(json.dumps(record, sort_keys=True) + "\n")

    def read_lines(self, name: str = "log.jsonl") -> list[dict[str, Any]]:
        """All whole lines of a log; a line cut short by a killed process is left out."""
        if not self.has(name):
            return []
        lines = (self.path / name).read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _corrupt(self, name: str, kind: str, error: Exception) -> CorruptFileError:
        return CorruptFileError(
            explain(
                f"a {kind} file",
                f"one that cannot be read ({error})",
                str(self.path / name),
                "name another run folder, or delete this one"
                if name == "run.json"
                else "delete this file to redo its part of the work; the rest of the run is kept",
            )
        )


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """What a nested configuration holds, as written, by the dotted path to it."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: dict[str, str] = {}
    for key, part in parts:
        found |= _leaves(part, f"{path}.{key}" if path else str(key))
    return found or ({path: repr(value)} if path else {})


def _told(leaves: Mapping[str, str], keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={leaves.get(key, NOTHING)}" for key in keys)

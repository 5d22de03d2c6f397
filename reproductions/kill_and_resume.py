"""Kill `pluriform compare` with SIGKILL at random moments; every resumed run must end with the uninterrupted figures.

    python reproductions/kill_and_resume.py [--moments 10] [--seed 0]

Writes reproductions/kill_and_resume.json. Figures of cost (latency, memory, seconds) are left out of the comparison.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COST = {"latency", "peak_memory", "training_seconds"}
FLAGS = ["--training.epochs", "40", "--deep-ensemble.members", "3"]


def figures(folder: Path) -> dict:
    """All measures and curves of a comparison, cost apart."""
    found = {}
    for path in sorted((folder / "results").glob("*.json")):
        result = json.loads(path.read_text())
        measures = [m for m in result["measures"] if m["name"] not in COST]
        found[path.stem] = {"status": result["status"], "measures": measures, "curves": result["curves"]}
    return found


def start(folder: Path) -> subprocess.Popen:
    """The comparison as a user starts it."""
    command = [sys.executable, "-m", "pluriform.cli.main", "compare", "digits", "--out", str(folder), *FLAGS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    base = Path(tempfile.mkdtemp())
    begun = time.perf_counter()
    whole = start(base / "whole")
    _, said = whole.communicate()
    seconds = time.perf_counter() - begun
    if whole.returncode:
        raise SystemExit(said)
    expected = figures(base / "whole")
    draw, rows = random.Random(chosen.seed), []
    for part in range(chosen.moments):  # One random moment in each part of the run.
        moment = seconds * (part + draw.random()) / chosen.moments
        folder = base / f"killed-{moment:.2f}"
        victim = start(folder)
        time.sleep(moment)
        victim.kill()
        victim.communicate()
        done = [path.stem for path in sorted((folder / "results").glob("*.json"))]
        resumed = start(folder)
        _, said = resumed.communicate()
        same = resumed.returncode == 0 and figures(folder) == expected
        rows.append({"killed_after_s": round(moment, 2), "rows_done": done, "exit": resumed.returncode, "equal": same})
        print(rows[-1], "" if same else said, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(base, ignore_errors=True)
    outcome = {
        "command": "pluriform compare digits " + " ".join(FLAGS),
        "uninterrupted_s": round(seconds, 1),
        "rows": list(expected),
        "figures_compared": sum(len(row["measures"]) for row in expected.values()),
        "moments": rows,
        "all_equal": all(row["equal"] for row in rows),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(outcome, indent=1) + "\n")
    raise SystemExit(not outcome["all_equal"])


if __name__ == "__main__":
    main()

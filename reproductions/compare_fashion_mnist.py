"""`pluriform compare fashion-mnist --net lenet`: LeNet-5 trained, a 10-member deep ensemble, and the closed form.

    PLURIFORM_DATA=... python reproductions/compare_fashion_mnist.py [--out runs/fashion-mnist]

Writes reproductions/compare_fashion_mnist.json. Beside it stand published figures for LeNet-5-size networks on the same
data: one network 91.0 % and NLL 0.321, ten members 93.2 % and NLL 0.200.
"""

import argparse
import json
from pathlib import Path

from pluriform.cli.main import main
from pluriform.result import Result

COMMAND = (
    "compare fashion-mnist --net lenet --outliers mnist kmnist "
    "--training.batch-size 128 --training.epochs 20 --deep-ensemble.members 10"
)
PUBLISHED = {"one network": {"accuracy": 0.910, "nll": 0.321}, "ten members": {"accuracy": 0.932, "nll": 0.200}}


def summary(result: Result) -> dict:
    """All figures of one row, without the curves."""
    row = result.to_json()
    return {key: row[key] for key in ("form", "status", "reason", "seed", "data", "measures", "environment")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="runs/fashion-mnist")
    out = Path(parser.parse_args().out)
    if main([*COMMAND.split(), "--out", str(out)]):
        raise SystemExit(1)
    results = [Result.load(path) for path in sorted((out / "results").glob("*.json"))]
    outcome = {"command": f"pluriform {COMMAND}", "published": PUBLISHED, "rows": [summary(r) for r in results]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(outcome, indent=1) + "\n")

"""Five members trained together, with stacked weights, beside the same members one by one; one thread.

    OMP_NUM_THREADS=1 python benchmarks/stacked_members.py

Writes benchmarks/stacked_members.json: median processor seconds of whole fits, and their ratio.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data

BATCH, EPOCHS, MEMBERS, REPEATS = 64, 10, 5, 5


def seconds(net: nn.Module, data: Data, together: str) -> float:
    """Processor seconds of one fit."""
    training = pf.Training(epochs=EPOCHS, batch_size=BATCH)
    begin = time.process_time()
    pf.DeepEnsemble(members=MEMBERS, training=training, together=together).fit(net, data)  # type: ignore[arg-type]
    return time.process_time() - begin


def measure(net: nn.Module, data: Data) -> dict[str, float]:
    """Both ways in turn, so that a drift of the machine meets both."""
    pairs = [(seconds(net, data, "yes"), seconds(net, data, "no")) for _ in range(REPEATS + 1)][1:]
    together, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    weights = sum(w.numel() for w in net.parameters() if w.dim() > 1)
    return {
        "multiplications": BATCH * weights,
        "together_s": round(together, 4),
        "one_by_one_s": round(alone, 4),
        "ratio": round(alone / together, 3),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    digits = pf.load("digits")
    nets = {
        f"64-{width}-10": nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        for width in (16, 64, 200, 400, 800)
    }
    nets["mlp (64-256-256-10)"] = pf.nets.build("mlp", digits)
    rows = {name: measure(net, digits) for name, net in nets.items()}
    what = f"{MEMBERS} members on digits, batch {BATCH}, {EPOCHS} epochs, one thread, median of {REPEATS}"
    outcome = {"what": what, "torch": torch.__version__, "networks": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(outcome, indent=1) + "\n")

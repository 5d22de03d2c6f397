"""Is a joint training ever lost? Ten seeds of JEM, an injected runaway, and the published loop beside them.

    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python reproductions/energy_stability.py [--data digits mnist-10000]
        [--kinds jem injected published published-fast] [--seeds 0 1 ... 9] [--out runs/energy_stability] [--assemble]

`jem` is the method with its defaults at a learning rate of 2e-3. `injected` is the same with a rate 100 times as large
for 50 updates in the middle of the training. `published` is the loop of 2020, written plainly, without a watch, at its
rate of 1e-4; `published-fast` is that loop at the rate of `jem`. On MNIST, fused kernels compute the gradients of the
chains of all four, as there is much to compute. A training is lost where its loss is not finite or
above 1e8 (the published loop stops there), or where it ends before its last epoch.

Data: digits (60 epochs), and 10,000 images of MNIST (10 epochs). Every (data, kind, seed) leaves one part; a later run
goes on where this one was stopped. Writes reproductions/energy_stability.json from all parts at hand.

References:
    Grathwohl et al. 2020. Your Classifier is Secretly an Energy Based Model. arXiv:1912.03263.
"""

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import environment, mean_and_sd, part_is_current, read_parts, rounded, write_part, write_record
from torch import Tensor, nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.energy.normalisation import prepared
from pluriform.evaluation.subject import stratified_index
from pluriform.fused.network import fused_network
from pluriform.training import loop as loop_file
from pluriform.training.recipe import Recipe

RATE, PUBLISHED_RATE = 2e-3, 1e-4
EPOCHS = {"digits": 60, "mnist-10000": 10}
BATCH, CHAIN_STEPS, BUFFER = 64, 20, 10_000
LOST = 1e8
INJECTED, TIMES = 50, 100
KINDS = ("jem", "injected", "published", "published-fast")


def load(name: str, seed: int) -> Data:
    """Digits, or 10,000 images of MNIST by class share."""
    if name == "digits":
        return pf.load("digits", validation=200, seed=seed)
    data = pf.load("mnist", validation=1000, seed=seed)
    index = stratified_index(data.train.targets, 10_000, seed)
    return replace(data, train=Split(*data.train.batch(index)))


def network(name: str, data: Data, seed: int) -> nn.Module:
    """The zoo's MLP or LeNet with SiLU, without normalisation."""
    return prepared(pf.nets.build("mlp" if name == "digits" else "lenet", data, seed=seed), "refuse", smooth=True)


def correct(network: nn.Module, data: Data) -> float:
    """Test accuracy in percent."""
    with torch.no_grad():
        hits = [
            (network(x).argmax(1) == y).double()
            for x, y in zip(data.test.inputs.split(1000), data.test.targets.split(1000), strict=True)
        ]
    return 100 * float(torch.cat(hits).mean())


class Injection:
    """Makes the learning rate of every loop 100 times as large for 50 updates, from its middle on."""

    def __enter__(self) -> None:
        self.plain = loop_file.Loop._set_learning_rate

        def raised(loop: Any) -> None:
            self.plain(loop)
            if 0 <= loop._done - loop.steps // 2 < INJECTED:
                for group in loop.optimizer.param_groups:
                    group["lr"] *= TIMES

        loop_file.Loop._set_learning_rate = raised

    def __exit__(self, *_: object) -> None:
        loop_file.Loop._set_learning_rate = self.plain


def ours(name: str, data: Data, seed: int, epochs: int, *, injected: bool) -> dict[str, Any]:
    """One training by `JEM`."""
    recipe = Recipe(epochs=epochs, batch_size=BATCH, learning_rate=RATE, weight_decay=0.0)
    method, net = pf.JEM(training=recipe), network(name, data, seed)
    if injected:
        with Injection():
            form = method.fit(net, data, seed=seed)
    else:
        form = method.fit(net, data, seed=seed)
    finished = int(form.cost["epochs"]) == epochs
    return {
        "lost": not finished or not math.isfinite(form.history["loss"][-1]),
        "roll_backs": form.events,
        "accuracy": correct(form.module.eval(), data),
        "seconds": form.cost["training_seconds"],
    }


def published(name: str, data: Data, seed: int, epochs: int, rate: float) -> dict[str, Any]:
    """One training by the published loop in [-1, 1]; it ends where it is lost."""
    torch.manual_seed(seed)
    net, start = network(name, data, seed), time.perf_counter()
    low, high = data.bounds or (0.0, 1.0)
    inputs, labels = (data.train.inputs - low) * 2 / (high - low) - 1, data.train.targets
    shape = data.input_shape
    samples = torch.rand(BUFFER, *shape) * 2 - 1
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    per_epoch, warm_up = len(inputs) // BATCH, 1000

    def chains() -> Tensor:
        net.eval()
        index = torch.randint(0, BUFFER, (BATCH,))
        anew = (torch.rand(BATCH) < 0.05).view(-1, *[1] * len(shape))
        x = torch.where(anew, torch.rand(BATCH, *shape) * 2 - 1, samples[index])
        for _ in range(CHAIN_STEPS):
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(fast(x).logsumexp(1).sum(), x)
            x = x.detach() + gradient + 0.01 * torch.randn_like(x)
        net.train()
        samples[index] = x
        return x

    passes = 2 * CHAIN_STEPS * BATCH * epochs * per_epoch
    fast, largest, lost = fused_network(net.eval(), inputs[:1], passes), 0.0, None
    for update in range(epochs * per_epoch):
        for group in optimizer.param_groups:
            decay = 0.3 ** sum(update >= share * epochs * per_epoch for share in (0.8, 0.9))
            group["lr"] = rate * decay * min(1.0, (update + 1) / warm_up)
        one, two = torch.randint(0, len(inputs), (2, BATCH))
        noise = 0.03 * torch.randn(2, BATCH, *shape)
        fake = chains()
        gap = net(inputs[one] + noise[0]).logsumexp(1).mean() - net(fake).logsumexp(1).mean()
        loss = F.cross_entropy(net(inputs[two] + noise[1]), labels[two]) - gap
        value = abs(loss.item())
        if not value < LOST:
            lost = update
            break
        largest = max(largest, value)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scaled = replace(data, test=Split((data.test.inputs - low) * 2 / (high - low) - 1, data.test.targets))
    return {
        "lost": lost is not None,
        "lost_at_update": lost,
        "largest_loss": largest,
        "accuracy": None if lost is not None else correct(net.eval(), scaled),
        "seconds": time.perf_counter() - start,
    }


def compute(name: str, kind: str, seed: int, chosen: argparse.Namespace) -> None:
    """One training, one part."""
    epochs = chosen.epochs or EPOCHS[name]
    key = {"data": name, "kind": kind, "seed": seed, "epochs": epochs, "method": pf.JEM().to_json(), "rate": RATE}
    path = chosen.out / "parts" / f"{name}-{kind}-{seed}.json"
    if part_is_current(path, key):
        return
    data = load(name, seed)
    if kind in ("jem", "injected"):
        found = ours(name, data, seed, epochs, injected=kind == "injected")
    else:
        found = published(name, data, seed, epochs, PUBLISHED_RATE if kind == "published" else RATE)
    write_part(path, rounded({"key": key, **found, **environment()}))
    shown = {fact: value for fact, value in found.items() if fact != "roll_backs"}
    print(name, kind, seed, rounded(shown, 4), len(found.get("roll_backs", [])), flush=True)


def outcome(parts: list[dict]) -> dict:
    """The JSON that is committed."""
    sets: dict[str, dict] = {}
    for place in sorted({(part["key"]["data"], part["key"]["kind"]) for part in parts}):
        own = [part for part in parts if (part["key"]["data"], part["key"]["kind"]) == place]
        sets.setdefault(place[0], {})[place[1]] = {
            "trainings": len(own),
            "lost": sum(part["lost"] for part in own),
            "roll_backs": [len(part.get("roll_backs", [])) for part in own],
            "reasons": [trip["reason"] for part in own for trip in part.get("roll_backs", [])],
            "accuracy": mean_and_sd(part["accuracy"] for part in own),
            "accuracies": [part["accuracy"] for part in own],
            "largest_loss": [part["largest_loss"] for part in own if "largest_loss" in part],
            "seconds": mean_and_sd(part["seconds"] for part in own),
        }
    return {
        "what": __doc__.splitlines()[0],
        "protocol": {
            "lost": "loss not finite or above 1e8, or a training that ended before its last epoch",
            "injected": f"learning rate times {TIMES} for {INJECTED} updates from the middle on",
            "rates": {"jem": RATE, "published": PUBLISHED_RATE, "published-fast": RATE},
            "accuracy": "percent, test images, mean over seeds; None where lost",
        },
        "data": sets,
        **environment(),
    }


def main() -> None:
    """Compute what is missing, then write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--epochs", type=int, help="other than the table's, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/energy_stability"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--assemble", action="store_true", help="only write the JSON from the parts")
    chosen = parser.parse_args()
    for seed in [] if chosen.assemble else chosen.seeds:
        for data in chosen.data:
            for kind in chosen.kinds:
                compute(data, kind, seed, chosen)
    write_record(chosen.json, outcome(read_parts(chosen.out)))


if __name__ == "__main__":
    main()

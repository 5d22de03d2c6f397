"""Attacks beside torchattacks and foolbox: the same network, radius, steps and images; what stands, and how long.

    pip install --no-deps --target .peers-attacks -r benchmarks/peers/attacks.txt
    PLURIFORM_DATA=... OMP_NUM_THREADS=1 python benchmarks/attacks.py [--networks mnist mnist-robust cifar10]
        [--images 1000] [--costly-images 200] [--norms linf l2] [--out runs/attacks] [--peers .peers-attacks]

`mnist` is a small convolutional network trained plainly, `mnist-robust` the same one trained against PGD, `cifar10` a
ResNet-8. The images are correctly classified test images, by class share. Robust accuracy is asked of the network anew
for what an attack returned, within the radius to 1e-6; time is process time of one thread.

`pgd` and `pgd-all` make 50 steps of 2.5 eps / 50 from one random start: the former leaves samples that have fallen, as
an evaluation may, the latter moves all of them in every step, as peers do; their figures are means over five starts.
The others have the budgets of AutoAttack (100 steps, 9 targets, 5,000 queries, no rescaled schedule), one start, and
fewer images (`--costly-images`). `fused` are ours with outputs and input gradients from the
fused kernels, which they take by themselves where more is to be computed than here, an AutoAttack of 1,000 images for
instance; for chains of layers only, and compiled before the clock runs. Writes attacks.json beside this file; networks
and norms that are in it and not asked for are kept.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pluriform as pf
from pluriform.attacks.perturb import perturb
from pluriform.evaluation.subject import stratified_index
from pluriform.fused.network import FusedNetwork, fused_network

STEPS, QUERIES, STARTS = 50, 5000, 5
MUCH = 10**15  # Passes: fused kernels are taken.
RADII = {
    "mnist": {"linf": 0.1, "l2": 1.0},
    "mnist-robust": {"linf": 0.3, "l2": 2.0},
    "cifar10": {"linf": 1 / 255, "l2": 0.125},
}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd": ("pgd", {"steps": STEPS}),
    "pgd-all": ("pgd", {"steps": STEPS, "stop_when_broken": False}),
    "apgd-ce": ("apgd-ce", {"steps": 100}),
    "apgd-dlr": ("apgd-dlr", {"steps": 100}),
    "apgd-t": ("apgd-t", {"steps": 100}),
    "fab-t": ("fab-t", {"steps": 100}),
    "square": ("square", {"queries": QUERIES}),
}
AVERAGED = ("pgd", "pgd-all")
PEERS = {
    "pgd": ("torchattacks", "foolbox"),
    "pgd-all": ("torchattacks", "foolbox"),
    **dict.fromkeys(("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"), ("torchattacks",)),
}


def small(seed: int) -> nn.Module:
    """Two strided convolutions and two linear layers, 0.6 million multiplications a digit."""
    torch.manual_seed(seed)
    first = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10))


def fitted(name: str, out: Path, tiny: bool) -> tuple[nn.Module, pf.Data]:
    """A trained network and its data; a second call resumes or reads it."""
    data = pf.load("cifar10" if name == "cifar10" else "mnist", validation=1000, seed=0)
    epochs = 1 if tiny else {"mnist": 2, "mnist-robust": 6, "cifar10": 6}[name]
    recipe = pf.Training(epochs=epochs, learning_rate=3e-3, batch_size=128)
    net = pf.nets.build("resnet8", data, seed=0) if name == "cifar10" else small(0)
    method: pf.Method = recipe
    if name == "mnist-robust":
        method = pf.AdversarialTraining("pgd", pf.Threat("linf", 0.3), training=recipe, steps=7)
    form: Any = method.fit(net, data, seed=0, run=out / f"{name}-{epochs}")
    return form.module.eval(), data


def standing(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Which images the network gets right."""
    with torch.no_grad():
        return network(inputs).argmax(1) == labels


def theirs(peer: str, attack: str, network: nn.Module, threat: pf.Threat) -> Callable[[Tensor, Tensor], Tensor]:
    """A peer's attack of the same budget."""
    import foolbox
    import torchattacks

    size = 2.5 * threat.eps / STEPS
    if peer == "foolbox":
        kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[threat.norm]
        own = kind(abs_stepsize=size, steps=STEPS, random_start=True)
        model = foolbox.PyTorchModel(network, bounds=threat.box, device="cpu")
        return lambda x, y: own(model, x, y, epsilons=threat.eps)[1]
    norm, eps = {"linf": "Linf", "l2": "L2"}[threat.norm], threat.eps
    if attack.startswith("pgd"):
        if threat.norm == "l2":
            return torchattacks.PGDL2(network, eps=eps, alpha=size, steps=STEPS, random_start=True)
        return torchattacks.PGD(network, eps=eps, alpha=size, steps=STEPS, random_start=True)
    if attack == "apgd-t":
        return torchattacks.APGDT(network, norm=norm, eps=eps, steps=100, n_restarts=1)
    if attack == "fab-t":
        return torchattacks.FAB(network, norm=norm, eps=eps, steps=100, n_restarts=1, multi_targeted=True)
    if attack == "square":
        return torchattacks.Square(network, norm=norm, eps=eps, n_queries=QUERIES, n_restarts=1, resc_schedule=False)
    return torchattacks.APGD(network, norm=norm, eps=eps, steps=100, n_restarts=1, loss=attack.removeprefix("apgd-"))


def timed(
    call: Callable[[Tensor, Tensor, int], Tensor],
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: pf.Threat,
    starts: int,
) -> dict[str, Any]:
    """Share that stands after an attack, and its process time, both means over random starts; who stands after all."""
    shares, seconds = [], []
    union = torch.ones_like(y, dtype=torch.bool)
    for seed in range(starts):
        torch.manual_seed(seed)
        begin = time.process_time()
        moved = call(x.clone(), y, seed).detach()
        seconds.append(time.process_time() - begin)
        threat.check(moved, x)
        left = standing(network, moved, y)
        shares.append(100 * float(left.double().mean()))
        union &= left
    return {"robust_accuracy": sum(shares) / starts, "seconds": sum(seconds) / starts, "standing": union}


def study(
    network: nn.Module, images: Tensor, labels: Tensor, threat: pf.Threat, attacks: list[str], costly: int
) -> dict[str, Any]:
    """Every attack, ours and theirs, and the worst case of each side on the images that all of them had."""
    found: dict[str, Any] = {}
    worst = {side: torch.ones(costly, dtype=torch.bool) for side in ("pluriform", "torchattacks")}
    for name in attacks:
        method, options = OURS[name]
        count, starts = (len(images), STARTS) if name in AVERAGED else (costly, 1)
        x, y = images[:count], labels[:count]
        calls: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
            "pluriform": lambda a, b, s, m=method, o=options: perturb(network, a, b, threat, m, seed=s, **o)
        }
        if isinstance(fused_network(network, x[:1], MUCH), FusedNetwork):
            calls["fused"] = lambda a, b, s, m=method, o=options: perturb(
                network, a, b, threat, m, seed=s, work=MUCH, **o
            )
        peers = {peer: theirs(peer, name, network, threat) for peer in PEERS[name]}
        calls |= {peer: lambda a, b, _, own=own: own(a, b) for peer, own in peers.items()}
        row = {side: timed(call, network, x, y, threat, starts) for side, call in calls.items()}
        for side, figures in row.items():
            left = figures.pop("standing")
            if side in worst:
                worst[side] &= left[:costly]
        for peer in PEERS[name]:
            for ours in ("pluriform", "fused"):
                if ours in row:
                    row[peer][f"times_{ours}"] = row[peer]["seconds"] / row[ours]["seconds"]
        found[name] = {"images": count, "starts": starts, **row}
        print(
            threat.norm, name, {s: (f["robust_accuracy"], round(f["seconds"], 2)) for s, f in row.items()}, flush=True
        )
    union = {side: 100 * float(left.double().mean()) for side, left in worst.items()}
    return {"eps": threat.eps, "attacks": found, "worst_case": union}


def main() -> None:
    """Attack, compare, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", default=list(RADII), choices=list(RADII))
    parser.add_argument("--norms", nargs="+", default=["linf", "l2"], choices=["linf", "l2"])
    parser.add_argument("--attacks", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--costly-images", type=int, default=200)
    parser.add_argument("--tiny", action="store_true", help="one epoch of training, to try the script out")
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--peers", type=Path, default=Path(".peers-attacks"))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.append(str(chosen.peers))
    import foolbox
    import torchattacks

    found: dict[str, Any] = json.loads(chosen.json.read_text())["networks"] if chosen.json.exists() else {}
    for name in chosen.networks:
        network, data = fitted(name, chosen.out, chosen.tiny)
        right = standing(network, data.test.inputs, data.test.targets).nonzero().squeeze(1)
        index = right[stratified_index(data.test.targets[right], chosen.images, 0)]
        index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]  # Also the first ones.
        x, y = data.test.batch(index)
        perturb(network, x[:1], y[:1], pf.Threat("linf", 0.01, (0.0, 1.0)), "pgd", work=MUCH, steps=1)  # Compiled.
        found[name] = found.get(name, {}) | {
            "accuracy": 100 * len(right) / len(data.test),
            **{
                norm: study(
                    network, x, y, pf.Threat(norm, RADII[name][norm], (0.0, 1.0)), chosen.attacks, chosen.costly_images
                )
                for norm in chosen.norms
            },
        }
        chosen.json.write_text(json.dumps(outcome(found, torchattacks, foolbox), indent=1) + "\n")


def outcome(networks: dict[str, Any], *peers: Any) -> dict[str, Any]:
    """The JSON that is committed."""
    return {
        "what": __doc__.splitlines()[0],
        "unit": "percent of images that were right before; seconds of process time, one thread",
        "versions": {module.__name__: module.__version__ for module in (torch, *peers)},
        "machine": platform.processor() or platform.machine(),
        "networks": networks,
    }


if __name__ == "__main__":
    main()

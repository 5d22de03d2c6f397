"""What the parts of robust_transfer.py say: intervals over seeds, the eps that wins, and whether the claim holds."""

from collections.abc import Iterable
from typing import Any

from records import environment, interval_of_mean, mean_and_sd

WORDS = {"linear-probe": "fixed features", "full-network": "full network"}
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


def interval(values: Iterable[float]) -> dict[str, Any]:
    """Mean, standard deviation and 95 % t interval over seeds; ends are `None` for one seed."""
    known = list(values)
    low, high = interval_of_mean(known) or (None, None)
    return mean_and_sd(known) | {"low": low, "high": high}


def verdict_of(gain: dict[str, Any]) -> str:
    """Whether a gain is above 0, by its interval."""
    if gain["low"] is None:
        return OPEN
    return HOLDS if gain["low"] > 0 else FAILS if gain["high"] < 0 else OPEN


def outcome(parts: list[dict], what: str) -> dict:
    """The JSON that is committed."""
    sources = [part for part in parts if part["key"]["kind"] == "source"]
    targets = [part for part in parts if part["key"]["kind"] == "target"]
    scratch = [part for part in targets if part["key"]["mode"] == "scratch"]
    found: dict[str, Any] = {}
    for name in sorted({part["key"]["source"] for part in sources}):
        own = [part for part in targets if part["key"]["source"] and part["key"]["source"]["source"] == name]
        rows = _targets(own, scratch)
        fits = [part for part in sources if part["key"]["source"] == name]
        method = max((part["key"] for part in fits), key=lambda key: key["eps"])["method"]
        found[name] = {
            "method": method,
            "fits": _fits(fits),
            "claim": _summary(rows),
            "granularity": _granularity(rows),
            "targets": rows,
        }
    return {
        "what": what,
        "protocol": {
            "accuracies": "in percent, test images; learning rate and eps chosen on validation images",
            "spread": "sd over seeds, n - 1; low and high end the 95 % t interval of the mean over seeds, which share "
            "the test images; intervals are not corrected for the number of targets",
            "robust_accuracy": "PGD-20 at L2 0.25 on test images drawn by class share: an upper bound",
            "attacked": sorted({part["key"]["attacked"] for part in parts}),
            "gain": "difference to eps 0 on the same seed, in points",
            "claim": "best eps above 0 by mean validation accuracy against eps 0, by the interval of the gain",
            "chosen": "eps chosen anew by the validation accuracy of each seed",
            "updates": {mode: _values(targets, "mode", mode, "updates") for mode in ("linear-probe", "full-network")},
            "source": "the epoch of most robust validation images; at eps 0 the last",
        },
        "sources": found,
        "machines": sorted({part["machine"] for part in parts}),
        "commit": environment()["commit"],
    }


def _values(parts: list[dict], name: str, value: str, wanted: str) -> list:
    return sorted({part["key"][wanted] for part in parts if part["key"][name] == value})


def _fits(parts: list[dict]) -> dict[str, Any]:
    """A row for each eps of a source."""
    rows = {}
    for eps in sorted({part["key"]["eps"] for part in parts}):
        own = [part for part in parts if part["key"]["eps"] == eps]
        names = ("accuracy", "robust_accuracy", "own_robust_accuracy")
        rows[f"{eps:g}"] = {
            **{name: mean_and_sd(part[name] for part in own) for name in names},
            "training_seconds": mean_and_sd(part["cost"]["training_seconds"] for part in own),
            "roll_backs": [len(part["events"]) for part in own],
        }
    return rows


def _targets(parts: list[dict], scratch: list[dict]) -> dict[str, Any]:
    """By target, then by pixels, then by mode."""
    found: dict[str, Any] = {}
    for place in sorted({_place(part) for part in parts}, key=lambda place: (place[0], -place[1], place[2])):
        name, pixels, mode = place
        row = _row([part for part in parts if _place(part) == place])
        found.setdefault(name, {}).setdefault(str(pixels), {})[mode] = row
    for name, sizes in found.items():
        for pixels, modes in sizes.items():
            own = [part for part in scratch if _place(part)[:2] == (name, int(pixels))]
            if own and "full-network" in modes:
                modes["scratch"] = {key: interval(p[key] for p in own) for key in ("accuracy", "robust_accuracy")}
    return found


def _place(part: dict) -> tuple[str, int, str]:
    return part["key"]["target"], part["key"]["pixels"], part["key"]["mode"]


def _row(parts: list[dict]) -> dict[str, Any]:
    """The ladder of one target in one mode; seeds that lack a rung are left out of its differences."""
    by = {(part["key"]["eps"], part["key"]["seed"]): part for part in parts}
    rungs = sorted({eps for eps, _ in by})
    ladder = {eps: _rung(eps, by) for eps in rungs}
    seeds = sorted({seed for _, seed in by})
    whole = [seed for seed in seeds if all((eps, seed) in by for eps in rungs)]
    per_seed = {seed: max(rungs, key=lambda eps: (*_merit(by[eps, seed]), -eps)) for seed in whole}
    judged = [by[eps, seed]["accuracy"] for seed, eps in per_seed.items()]
    row: dict[str, Any] = {
        "sizes": parts[0]["sizes"],
        "winner": _best(rungs, by),
        "claim": _claim([eps for eps in rungs if eps > 0], by),
        "chosen": {
            "eps": list(per_seed.values()),
            "accuracy": interval(judged),
            "gain": interval(
                right - by[0.0, seed]["accuracy"]
                for right, seed in zip(judged, per_seed, strict=True)
                if (0.0, seed) in by
            ),
        },
        "ladder": {f"{eps:g}": rung for eps, rung in ladder.items()},
        "seconds": mean_and_sd(part["training_seconds"] + part["judging_seconds"] for part in parts),
    }
    return row


def _rung(eps: float, by: dict[tuple[float, int], dict]) -> dict[str, Any]:
    own = {seed: part for (radius, seed), part in by.items() if radius == eps}
    rung: dict[str, Any] = {
        name: interval(part[name] for part in own.values())
        for name in ("validation_accuracy", "accuracy", "robust_accuracy")
    }
    rung["gain"] = _gain(eps, by)
    rung["by_seed"] = {str(seed): part["accuracy"] for seed, part in own.items()}
    rung["learning_rates"] = [part["rates"][0]["learning_rate"] for part in own.values()]
    return rung


def _gain(eps: float, by: dict[tuple[float, int], dict]) -> dict[str, Any]:
    """Paired difference in test accuracy to eps 0."""
    seeds = [seed for radius, seed in by if radius == eps and (0.0, seed) in by]
    return interval(by[eps, seed]["accuracy"] - by[0.0, seed]["accuracy"] for seed in seeds)


def _merit(part: dict) -> tuple[float, float]:
    return part["rates"][0]["validation_accuracy"], -part["rates"][0]["validation_loss"]


def _best(rungs: list[float], by: dict[tuple[float, int], dict]) -> float:
    """The eps of highest mean validation accuracy; among equals of lowest loss, then the smallest."""

    def merit(eps: float) -> tuple[float, ...]:
        merits = [_merit(part) for (radius, _), part in by.items() if radius == eps]
        return (*(sum(values) / len(values) for values in zip(*merits, strict=True)), -eps)

    return max(rungs, key=merit)


def _claim(robust: list[float], by: dict[tuple[float, int], dict]) -> dict[str, Any]:
    """Whether robust sources transfer better here, in plain words."""
    if not robust or not any(eps == 0 for eps, _ in by):
        return {"verdict": OPEN, "words": f"{OPEN}: it needs eps 0 and another"}
    eps = _best(robust, by)
    gain = _gain(eps, by)
    verdict, tail = verdict_of(gain), "one seed has no interval"
    if gain["low"] is not None:
        tail = f"95 % interval {gain['low']:+.1f} to {gain['high']:+.1f}, {gain['seeds']} seeds"
    side = "above" if gain["mean"] >= 0 else "below"
    words = f"{verdict}: the source of eps {eps:g} is {abs(gain['mean']):.1f} points {side} the standard one ({tail})"
    return {"verdict": verdict, "eps": eps, "gain": gain, "words": words}


def _summary(rows: dict[str, Any]) -> dict[str, Any]:
    """How often the claim holds at full resolution, by mode, and why."""
    found = {}
    for mode, words in WORDS.items():
        claims = {name: max(sizes.items(), key=lambda item: int(item[0]))[1].get(mode) for name, sizes in rows.items()}
        verdicts = {name: row["claim"] for name, row in claims.items() if row}
        counts = {v: sum(claim["verdict"] == v for claim in verdicts.values()) for v in (HOLDS, FAILS, OPEN)}
        if verdicts:
            found[mode] = {
                "words": f"{words}: of {len(verdicts)} targets robust sources transfer better on {counts[HOLDS]}, "
                f"worse on {counts[FAILS]}; {counts[OPEN]} undecided",
                "targets": {name: claim["words"] for name, claim in verdicts.items()},
            }
    return found


def _granularity(rows: dict[str, Any]) -> dict[str, Any]:
    """The eps that wins by mode, target and pixels, and the gain of the best robust source."""
    found: dict[str, Any] = {}
    for name, sizes in rows.items():
        for pixels, modes in sizes.items():
            for mode in WORDS:
                if mode in modes:
                    claim = modes[mode]["claim"]
                    gain = claim.get("gain", {}).get("mean")
                    row = {"winner": modes[mode]["winner"], "best_robust": claim.get("eps"), "gain": gain}
                    found.setdefault(mode, {}).setdefault(name, {})[pixels] = row | {"verdict": claim["verdict"]}
    return found

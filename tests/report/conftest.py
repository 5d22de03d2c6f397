"""Synthetic results that look like real ones: five forms of an MLP on digits, one not applicable; regression."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pluriform.result import Curve, Measure, Pictures, Result

FORMS = {
    # accuracy, nll, ece, temperature, ece after, auroc, robustness, training s, latency ms, parameters
    "Training(epochs=60)": (0.969, 0.131, 0.0212, 1.41, 0.0101, 0.951, 1.0, 4.2, 0.061, 26122),
    "DeepEnsemble(members=5)": (0.978, 0.0832, 0.0131, 0.91, 0.0092, 0.978, 1.1, 9.8, 0.142, 130610),
    "InfiniteWidth(weight_var=2.0)": (0.983, 0.112, 0.0413, 0.72, 0.0079, 0.989, 1.25, 1.9, 3.42, 0),
    "AdversarialTraining(scheme='pgd')": (0.961, 0.168, 0.0318, 0.88, 0.0140, 0.913, 2.9, 61.5, 0.062, 26122),
}
ENVIRONMENT = {"python": "3.11.9", "torch": "2.13.0", "processor": "x86_64", "cores": 2, "device": "cpu"}
PROTOCOL = {
    "interval": "95 % bootstrap over the test set, 1000 draws",
    "ece_bins": 15,
    "pgd": {"steps": 20, "step_size": "2.5 eps / 20", "random_start": True, "images": 360, "seed": 0},
    "latency": "median of 30 repeats, 1 thread",
}
VERDICT = "diverse: the 5 members differ (3.8 % of the predictive entropy comes from their differences)"
DIGITS = {
    "name": "digits",
    "task": "classification",
    "sizes": {"train": 1293, "validation": 144, "test": 360},
    "classes": [str(i) for i in range(10)],
    "bounds": [0.0, 1.0],
    "input_shape": [1, 8, 8],
}


def share(name, value, better, count=360, **condition):
    half = 1.96 * float(np.sqrt(max(value * (1 - value), 1e-4) / count))
    return Measure(
        name,
        float(value),
        "",
        better,
        max(0.0, value - half),
        min(1.0, value + half),
        count,
        condition,
        PROTOCOL["interval"],
    )


def score(name, value, better, spread=0.12, **condition):
    low, high = value * (1 - spread), value * (1 + spread)
    return Measure(name, float(value), "", better, low, high, 360, condition, PROTOCOL["interval"])


def reliability_curve(ece, generator, **condition):
    confidence = (np.arange(15) + 0.5) / 15
    count = np.round(300 * confidence**6 + generator.integers(0, 4, 15))
    accuracy = np.clip(confidence - 4 * ece * np.sin(np.pi * confidence) + generator.normal(0, 0.02, 15), 0, 1)
    columns = {"confidence": confidence.tolist(), "accuracy": accuracy.tolist(), "count": count.tolist()}
    return Curve("reliability", columns, condition)


def histogram(auroc, generator, **condition):
    center = (np.arange(30) + 0.5) / 30
    inside = np.exp(-(((1 - center) / 0.12) ** 1.2))
    outside = np.exp(-(((center - 1.3 + 0.9 * auroc) / 0.2) ** 2)) + 0.02 * generator.random(30)
    return Curve(
        "score_histogram",
        {"center": center.tolist(), "inside": (300 * inside).tolist(), "outside": (900 * outside).tolist()},
        condition,
    )


def diversity(accuracy, nll):
    """Figures of members, and how they came about in 20 epochs of which the 15th was kept."""
    epochs = np.arange(20.0)
    falls = np.exp(-epochs / 5)
    columns = {
        "epoch": epochs.tolist(),
        "validation_nll": (nll + 2 * falls).tolist(),
        "member_nll": (1.4 * nll + 2.1 * falls).tolist(),
        "disagreement": (0.02 + 0.3 * falls).tolist(),
        "mutual_information": (0.03 + 0.2 * falls).tolist(),
        "weight_spread": (0.05 + 0.02 * falls).tolist(),
    }
    measures = [
        share("member_accuracy", accuracy - 0.01, "higher"),
        score("member_nll", 1.4 * nll, "lower"),
        score("ensemble_gain", 0.4 * nll, None),
        share("disagreement", 0.03, None),
        score("mutual_information", 0.03, None),
        Measure("error_correlation", 0.61),
        Measure("effective_rank", 3.6, condition={"of": "probabilities"}),
        Measure("weight_distance", 0.89),
        Measure("weight_spread", 0.05),
        Measure("weight_spread", 0.05, condition={"layer": "1.weight"}),
        Measure("collapsed", 0.0, better="lower"),
    ]
    return measures, Curve("diversity_history", columns, {"kept": 15})


def classifier(form, figures, seed=0):
    accuracy, nll, ece, temperature, scaled, auroc, robust, seconds, latency, parameters = figures
    g = np.random.default_rng(seed)
    measures = [
        share("accuracy", accuracy, "higher"),
        score("nll", nll, "lower", 0.18),
        score("brier", 1.6 * (1 - accuracy), "lower"),
        score("ece", ece, "lower", 0.3),
        score("aurc", (1 - accuracy) ** 2 * 2, "lower", 0.4),
        Measure("calibration_gap", ece * 0.6, condition={}),
        score("ece", scaled, "lower", 0.3, temperature=temperature),
        score("nll", nll * 0.93, "lower", 0.18, temperature=temperature),
    ]
    curves = [reliability_curve(ece, g), reliability_curve(scaled * 0.5, g, temperature=temperature)]
    scores = (
        ["max_probability", "entropy"]
        + ["mutual_information"] * ("Ensemble" in form)
        + ["score"] * ("Infinite" in form)
    )
    for outliers, shift in (("mnist", 0.0), ("fashion-mnist", 0.02)):
        for name in scores:
            value = min(0.999, auroc - shift + 0.004 * len(name) / 10)
            condition = {"outliers": outliers, "score": name}
            measures += [
                share("auroc", value, "higher", 2000, **condition),
                share("aupr", value - 0.03, "higher", 2000, **condition),
                share("fpr95", 2.2 * (1 - value), "lower", 2000, **condition),
            ]
            curves.append(histogram(value, g, **condition))
    ladder = [0.0, 0.025, 0.05, 0.1, 0.15, 0.2]
    for attack, strength in (("pgd", 9.5), ("fgsm", 6.5)):
        falls = [float(accuracy * np.exp(-((strength * eps / robust) ** 1.8))) for eps in ladder]
        condition = {"threat": "linf", "attack": attack}
        curves.append(Curve("robustness", {"eps": ladder, "accuracy": falls}, condition))
        measures += [
            share("robust_accuracy", v, "higher", **condition, eps=eps) for eps, v in zip(ladder, falls, strict=True)
        ]
    for name in scores:
        measures += [
            share(
                "auroc",
                0.5 + 0.4 * np.exp(-eps * 5),
                "higher",
                500,
                adversarial="pgd",
                threat="linf",
                eps=eps,
                score=name,
            )
            for eps in ladder[1:]
        ]
    if "Ensemble" in form:
        members, history = diversity(accuracy, nll)
        measures += members
        curves.append(history)
    for kind, harm in (
        ("gaussian_noise", 0.05),
        ("blur", 0.035),
        ("contrast", 0.02),
        ("rotation", 0.06),
        ("occlusion", 0.045),
    ):
        for severity in range(1, 6):
            value = accuracy - harm * severity**1.3 / (0.7 + 0.4 * robust)
            measures.append(share("corrupted_accuracy", value, "higher", corruption=kind, severity=severity))
    coverage = np.linspace(0.01, 1, 360)
    curves.append(
        Curve("risk_coverage", {"coverage": coverage.tolist(), "risk": ((1 - accuracy) * coverage**3).tolist()})
    )
    measures += [
        Measure("parameters", float(parameters), "parameters", "lower"),
        Measure("macs", parameters * 0.99, "MAC", "lower"),
        Measure(
            "latency",
            latency,
            "ms",
            "lower",
            latency * 0.9,
            latency * 1.2,
            30,
            {"batch": 1},
            "quartiles of the repeats",
        ),
        Measure(
            "latency",
            latency * 9,
            "ms",
            "lower",
            latency * 8,
            latency * 12,
            30,
            {"batch": 128},
            "quartiles of the repeats",
        ),
        Measure("peak_memory", 3.1 + parameters / 2e5, "MiB", "lower"),
        Measure("training_seconds", seconds, "s", "lower"),
    ]
    method = {
        "class": "pluriform." + form.split("(")[0],
        "seed": seed,
        "epochs": 60,
        "optimiser": {"name": "sgd", "lr": 0.1},
    }
    protocol = PROTOCOL | ({"diversity": {"members": 5, "verdict": VERDICT}} if "Ensemble" in form else {})
    return Result(form, method, "mlp", DIGITS, seed, "ok", "", tuple(measures), tuple(curves), protocol, ENVIRONMENT)


def failed():
    return Result(
        "WideThenNarrow(widen=4)",
        {"class": "pluriform.WideThenNarrow", "widen": 4},
        "mlp",
        DIGITS,
        0,
        "not applicable",
        "expected Conv2d or Linear layers; got one Opaque node (node encoder, net.py:41). To fix: rewrite the branch.",
    )


def regressor(form, error, seed):
    g = np.random.default_rng(seed)
    x = np.linspace(-4, 4, 120)
    mean, width = np.sin(1.4 * x), 0.15 + error * np.maximum(0, np.abs(x) - 1.5) ** 1.5
    at = np.sort(g.uniform(-2, 2, 60))
    noise = np.random.default_rng(7).normal(0, 0.15, 60)
    measures = (
        score("rmse", error, "lower"),
        score("nll", -0.5 + error, "lower", -0.2),
        share("coverage", 0.93 + error / 10, None, level=0.95),
        Measure("parameters", 1000.0 * (seed + 1), "parameters", "lower"),
        Measure("training_seconds", 2.0 + seed, "s", "lower"),
    )
    if "Ensemble" in form:
        measures += (
            Measure("member_rmse", error * 1.1, better="lower"),
            Measure("member_spread", 0.05),
            Measure("effective_rank", 3.1, condition={"of": "means"}),
            Measure("collapsed", 0.0, better="lower"),
        )
    curves = (
        Curve(
            "predictive_band",
            {
                "x": x.tolist(),
                "mean": mean.tolist(),
                "low": (mean - 2 * width).tolist(),
                "high": (mean + 2 * width).tolist(),
            },
        ),
        Curve("observations", {"x": at.tolist(), "y": (np.sin(1.4 * at) + noise).tolist()}),
    )
    data = {"name": "sine", "task": "regression", "sizes": {"train": 60, "test": 200}}
    return Result(
        form,
        {"class": form},
        "mlp",
        data,
        seed,
        measures=measures,
        curves=curves,
        protocol=PROTOCOL,
        environment=ENVIRONMENT,
    )


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="


def drawer(conditional=False, **protocol):
    """A form that draws inputs: 20 pictures, two chains of four states, scores beside those of the data."""
    g = np.random.default_rng(0)
    labels = {"label": [float(i % 10) for i in range(20)]} if conditional else {}
    seen = [float(i % 10) for i in range(19)] + [3.0]
    drawn = Pictures("samples", [PIXEL] * 20, {"log_density": g.normal(2, 1, 20).tolist(), "predicted": seen, **labels})
    steps = [0.0, 1.0, 20.0, 1000.0]
    scores = [-12.345, -3.0, 1.5, 2.25, -1234.5, -4.0, 0.5, 2.0]
    states = {"log_density": scores, "predicted": [1.0] * 8, "chain": [0.0] * 4 + [1.0] * 4, "step": steps * 2}
    chain = Pictures("chain", [PIXEL] * 8, states | ({"label": [0.0] * 4 + [5.0] * 4} if conditional else {}))
    centers = np.linspace(-2, 4, 40)
    shares = {name: np.exp(-((centers - at) ** 2)) for name, at in (("test", 1.0), ("samples", 1.6))}
    levels = {"quantile": [0.05, 0.5, 0.95], "test": [-1.0, 1.0, 2.5], "samples": [0.5, 1.6, 3.0]}
    base = classifier("JEM(buffer_size=1000)", FORMS["Training(epochs=60)"], 5)
    condition = {"outliers": "mnist", "score": "score"}
    return replace(
        base,
        measures=(*base.measures, share("auroc", 0.9, "higher", **condition)),
        curves=(
            *base.curves,
            histogram(0.9, g, **condition),
            Curve(
                "log_density", {"centers": centers.tolist(), **{k: (v / v.sum()).tolist() for k, v in shares.items()}}
            ),
            Curve("log_density_quantiles", levels),
            Curve("chain_log_density", {"step": steps, "chain_1": scores[:4], "chain_2": scores[4:]}),
        ),
        pictures=(drawn, chain),
        protocol={
            **base.protocol,
            "samples": {"score": "log p(x)", "count": 300, "buffer": 10000, "steps_per_sample": 20, "seed": 0}
            | ({"shown_of_each_class": 2} if conditional else {"shown": 20}),
            "roll_backs": {"count": 0},
            **protocol,
        },
    )


def attacked():
    """A form with five attacked samples, two of them turned to another class."""
    base = classifier("Training(epochs=60)", FORMS["Training(epochs=60)"], 0)
    condition = {"threat": "linf", "attack": "pgd", "eps": 0.1}
    facts = {"label": [0.0, 1.0, 2.0, 3.0, 4.0], "sample": [10.0, 11.0, 12.0, 13.0, 14.0]}
    columns = {
        "clean": {"predicted": facts["label"], "confidence": [0.9, 0.998, 1.0, 0.5, 0.6]},
        "attacked": {"predicted": [0.0, 7.0, 2.0, 7.0, 4.0], "confidence": [0.7, 0.8, 0.9, 0.9949, 0.3]},
        "perturbation": {"factor": [5.0] * 5},
        "input_gradient": {"at_white": [0.001, 0.002, 0.0, 4.0, 50.0]},
    }
    pictures = tuple(Pictures(name, [PIXEL] * 5, {**facts, **own}, condition) for name, own in columns.items())
    told = {"selection": "the first ones", "seed": 3, "pgd": "20 steps"}
    return replace(base, pictures=pictures, protocol={**base.protocol, "adversarial": told})


def classification():
    return [classifier(form, figures, seed) for seed, (form, figures) in enumerate(FORMS.items())] + [failed()]


def regression():
    return [
        regressor("Training(epochs=200)", 0.21, 0),
        regressor("DeepEnsemble(members=5)", 0.18, 1),
        regressor("InfiniteWidth()", 0.17, 2),
    ]


@pytest.fixture
def results():
    return classification()


@pytest.fixture
def regression_results():
    return regression()


@pytest.fixture(scope="session")
def synthetic():
    return SimpleNamespace(classification=classification, regression=regression, drawer=drawer, attacked=attacked)


SEARCH = [  # parent, operation, state, score
    (None, "start", "done", 0.80),
    (0, "widen + widen", "done", 0.90),
    (0, "add_skip", "done", 0.85),
    (2, "deepen_branch", "failed", None),
    (1, "grow_kernel", "done", 0.97),
    (2, "concat_skip", "done", 0.70),
    (4, "deepen", "running", None),
]


def search_facts(tree=SEARCH, **facts):
    trials = [
        {
            "number": number,
            "parent": parent,
            "operation": operation,
            "moves": [] if parent is None else [f"{kind} conv1 8" for kind in operation.split(" + ")],
            "state": state,
            "score": score,
            "predicted": None if number < 2 else 0.9,
            "deviation": None if number < 2 else 0.05,
            "parameters": 1000 * (number + 1),
            "latency": 0.5 + number,
            "seconds": 2.0,
            "reason": "MemoryBudgetError: <b>12 GiB</b>" if state == "failed" else "",
        }
        for number, (parent, operation, state, score) in enumerate(tree)
    ]
    scored = [trial for trial in trials if trial["score"] is not None]
    best = max(scored, key=lambda trial: trial["score"])["number"] if scored else None
    clock = [None if trial["state"] == "running" else 10.0 * (trial["number"] + 1) for trial in trials]
    usual = {"best": best, "front": [best], "clock": clock, "objective": "accuracy", "validation": 400}
    usual |= {"strategy": "bayesian", "seconds": 65.0, "minutes": 2, "most_trials": None, "state": "running"}
    return {"trials": trials, **usual, **facts}


def search_result(facts, label="MorphismSearch()"):
    return Result(label, {}, "mlp", {"name": "digits"}, 0, protocol={"search": facts})


@pytest.fixture
def searched():
    return SimpleNamespace(TREE=SEARCH, told=search_facts, result=search_result)

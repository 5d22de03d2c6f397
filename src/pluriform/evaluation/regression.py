"""Regression: error, Gaussian likelihood, interval coverage and the predictive band of one-dimensional inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pluriform.data.data import Data
from pluriform.errors import EmptySplitError, explain
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Answers, Subject
from pluriform.metrics.regression import (
    covered,
    fit_noise,
    fit_scale,
    gaussian_nll_terms,
    normal_quantile,
    squared_errors,
)
from pluriform.prediction import Prediction
from pluriform.result import Curve, Measure

__all__ = ["LEVELS", "measure_regression"]

Variance = Callable[[Prediction], Tensor]
LEVELS = (0.5, 0.9, 0.95)
GRID = 200
OBSERVATIONS = 500


def measure_regression(subject: Subject) -> Findings:
    """`rmse`, `nll`, `coverage` at 50, 90 and 95 %, and for one input and one output the curve `predictive_band`.

    The predictive distribution is Gaussian with the form's variance, which includes noise. To a form without one, the
    variance of its members (or 0) and one noise variance fitted on validation are ascribed. Beside, under the condition
    `{"variance_scale": s}`, stand the same figures with all variances times the `s` that is best on validation.
    """
    answers = subject.test
    mean, targets = answers.prediction.mean, _columns(answers)
    squared = squared_errors(mean, targets)[:, None]
    bootstrap, count = subject.bootstrap, len(targets)
    spread = bootstrap.means(squared)[0]
    roots = type(spread)(max(spread.low, 0.0) ** 0.5, max(spread.high, 0.0) ** 0.5)
    measures = [measure("rmse", float(squared.mean().sqrt()), roots, bootstrap.words, count=count)]
    protocol: dict[str, Any] = {"samples": count, "intervals": bootstrap.words, "bootstrap_seed": bootstrap.seed}
    try:
        variance, described = _predictive(subject)
    except EmptySplitError as error:
        return Findings(tuple(measures), (), {"regression": protocol | {"likelihood_skipped": str(error)}})
    measures += _likelihood(subject, mean, variance(answers.prediction), targets, {})
    checked = subject.validation
    if checked is not None:
        scale = fit_scale(checked.prediction.mean, variance(checked.prediction), _columns(checked))
        condition = {"variance_scale": scale}
        measures += _likelihood(subject, mean, scale * variance(answers.prediction), targets, condition)
        described |= {"variance_scale": scale, "fitted_on": f"validation, {len(checked)} samples"}
    curves = _band(subject, variance) if subject.data.input_shape == (1,) and mean.shape[1] == 1 else ()
    return Findings(tuple(measures), curves, {"regression": protocol | described})


def _predictive(subject: Subject) -> tuple[Variance, dict[str, Any]]:
    """How to get the predictive variance from a prediction of this form, and the same in words."""
    if subject.test.prediction.variance is not None:
        return _stated, {"predictive": "Gaussian, variance of the form"}
    checked = subject.validation
    if checked is None:
        raise EmptySplitError(
            explain("validation samples to fit the noise on", "0", subject.data.name, "load with validation=0.1")
        )
    noise = fit_noise(checked.prediction.mean, _spread(checked.prediction), _columns(checked))
    words = "Gaussian, variance between members (0 for one network) plus noise fitted on validation"
    return lambda prediction: _spread(prediction) + noise, {"predictive": words, "noise_variance": noise}


def _likelihood(
    subject: Subject, mean: Tensor, variance: Tensor, targets: Tensor, condition: Mapping[str, Any]
) -> list[Measure]:
    bootstrap = subject.bootstrap
    columns = [gaussian_nll_terms(mean, variance, targets)]
    columns += [covered(mean, variance, targets, level) for level in LEVELS]
    terms = torch.stack(columns, 1)
    conditions = [{**condition}, *({"level": level, **condition} for level in LEVELS)]
    names = ("nll", *("coverage" for _ in LEVELS))
    facts = zip(names, terms.mean(0).tolist(), bootstrap.means(terms), conditions, strict=True)
    return [
        measure(name, value, interval, bootstrap.words, count=len(targets), condition=where)
        for name, value, interval, where in facts
    ]


def _columns(answers: Answers) -> Tensor:
    return answers.targets.reshape(answers.prediction.mean.shape)


def _stated(prediction: Prediction) -> Tensor:
    variance = prediction.variance if prediction.variance is not None else torch.zeros_like(prediction.mean)
    return variance.double().clamp_min(torch.finfo(torch.float32).tiny)


def _spread(prediction: Prediction) -> Tensor:
    if prediction.members is not None and len(prediction.members) > 1:
        return prediction.members.double().var(0)
    return torch.zeros_like(prediction.mean, dtype=torch.float64)


def _band(subject: Subject, variance: Variance) -> tuple[Curve, ...]:
    """The 95 % band from a quarter of the range below the training inputs to a quarter above, and the samples."""
    x, y = _training_samples(subject.data)
    low, high = (float(end) for end in x.aminmax())
    margin = 0.25 * (high - low)
    grid = torch.linspace(low - margin, high + margin, GRID, dtype=x.dtype)
    prediction = subject.form.predict(grid[:, None])
    mean = prediction.mean.double().cpu().squeeze(1)
    half = normal_quantile(0.95) * variance(prediction).cpu().squeeze(1).sqrt()
    columns = {"x": grid, "mean": mean, "low": mean - half, "high": mean + half}
    return (
        Curve("predictive_band", {name: values.double().tolist() for name, values in columns.items()}),
        Curve("observations", {"x": x.double().tolist(), "y": y.double().tolist()}),
    )


def _training_samples(data: Data) -> tuple[Tensor, Tensor]:
    size = len(data.train)
    x, y = data.train.batch(torch.linspace(0, size - 1, min(size, OBSERVATIONS), dtype=torch.float64).long())
    return x.flatten(), y.flatten()

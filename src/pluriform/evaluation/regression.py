"""Regression: error, Gaussian likelihood, interval coverage and the predictive band of one-dimensional inputs."""

import torch
from torch import Tensor

from pluriform.data.data import Data
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Answers, Subject
from pluriform.metrics.regression import covered, fit_noise, gaussian_nll_terms, normal_quantile, squared_errors
from pluriform.prediction import Prediction
from pluriform.result import Curve, Measure

__all__ = ["LEVELS", "measure_regression"]

LEVELS = (0.5, 0.9, 0.95)
GRID = 200
OBSERVATIONS = 500


def measure_regression(subject: Subject) -> Findings:
    """`rmse`, `nll`, `coverage` at 50, 90 and 95 %, and for one input and one output the curve `predictive_band`.

    The predictive distribution is Gaussian: the form's variance (or that of its members, or 0) plus one noise variance
    fitted on validation.
    """
    answers = subject.test
    mean, targets = answers.prediction.mean, _columns(answers)
    squared = squared_errors(mean, targets)[:, None]
    bootstrap, count = subject.bootstrap, len(targets)
    spread = bootstrap.means(squared)[0]
    roots = type(spread)(max(spread.low, 0.0) ** 0.5, max(spread.high, 0.0) ** 0.5)
    measures = [measure("rmse", float(squared.mean().sqrt()), roots, bootstrap.words, count=count)]
    protocol = {"samples": count, "intervals": bootstrap.words, "bootstrap_seed": bootstrap.seed}
    if subject.validation is None:
        reason = "no validation samples to fit the noise on"
        return Findings(tuple(measures), (), {"regression": protocol | {"likelihood_skipped": reason}})
    checked = subject.validation
    noise = fit_noise(checked.prediction.mean, _latent(checked.prediction), _columns(checked))
    measures += _likelihood(subject, mean, _latent(answers.prediction) + noise, targets)
    protocol |= {
        "noise_variance": noise,
        "noise_fitted_on": f"validation, {len(checked)} samples",
        "predictive": "Gaussian, variance of the form plus noise",
    }
    curves = _band(subject, noise) if subject.data.input_shape == (1,) and mean.shape[1] == 1 else ()
    return Findings(tuple(measures), curves, {"regression": protocol})


def _likelihood(subject: Subject, mean: Tensor, variance: Tensor, targets: Tensor) -> list[Measure]:
    bootstrap = subject.bootstrap
    columns = [gaussian_nll_terms(mean, variance, targets)]
    columns += [covered(mean, variance, targets, level) for level in LEVELS]
    terms = torch.stack(columns, 1)
    conditions = [{}, *({"level": level} for level in LEVELS)]
    facts = zip(terms.mean(0).tolist(), bootstrap.means(terms), conditions, strict=True)
    return [
        measure("coverage" if where else "nll", value, interval, bootstrap.words, count=len(targets), condition=where)
        for value, interval, where in facts
    ]


def _columns(answers: Answers) -> Tensor:
    return answers.targets.reshape(answers.prediction.mean.shape)


def _latent(prediction: Prediction) -> Tensor:
    if prediction.variance is not None:
        return prediction.variance.double()
    if prediction.members is not None and len(prediction.members) > 1:
        return prediction.members.double().var(0)
    return torch.zeros_like(prediction.mean, dtype=torch.float64)


def _band(subject: Subject, noise: float) -> tuple[Curve, ...]:
    """The 95 % band from a quarter of the range below the training inputs to a quarter above, and the samples."""
    x, y = _training_samples(subject.data)
    low, high = (float(end) for end in x.aminmax())
    margin = 0.25 * (high - low)
    grid = torch.linspace(low - margin, high + margin, GRID, dtype=x.dtype)
    prediction = subject.form.predict(grid[:, None])
    mean = prediction.mean.double().cpu().squeeze(1)
    half = normal_quantile(0.95) * (_latent(prediction).cpu().squeeze(1) + noise).sqrt()
    columns = {"x": grid, "mean": mean, "low": mean - half, "high": mean + half}
    return (
        Curve("predictive_band", {name: values.double().tolist() for name, values in columns.items()}),
        Curve("observations", {"x": x.double().tolist(), "y": y.double().tolist()}),
    )


def _training_samples(data: Data) -> tuple[Tensor, Tensor]:
    size = len(data.train)
    x, y = data.train.batch(torch.linspace(0, size - 1, min(size, OBSERVATIONS), dtype=torch.float64).long())
    return x.flatten(), y.flatten()

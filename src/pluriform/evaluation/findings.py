"""`Findings`: what one protocol adds to a result."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pluriform.evaluation.bootstrap import Interval
from pluriform.result import Curve, Measure, Pictures

__all__ = ["BETTER", "Findings", "measure", "merged"]

BETTER: Mapping[str, Literal["higher", "lower"] | None] = {
    "accuracy": "higher",
    "nll": "lower",
    "brier": "lower",
    "aurc": "lower",
    "ece": "lower",
    "calibration_gap": None,
    "auroc": "higher",
    "aupr": "higher",
    "fpr95": "lower",
    "member_accuracy": "higher",
    "member_nll": "lower",
    "member_rmse": "lower",
    "ensemble_gain": None,
    "disagreement": None,
    "mutual_information": None,
    "error_correlation": None,
    "effective_rank": None,
    "member_spread": None,
    "weight_spread": None,
    "weight_distance": None,
    "weight_cosine": None,
    "collapsed": "lower",
    "chains_apart": "lower",
    "robust_accuracy": "higher",
    "masked": "lower",
    "corrupted_accuracy": "higher",
    "parameters": "lower",
    "macs": "lower",
    "latency": "lower",
    "peak_memory": "lower",
    "training_seconds": "lower",
    "wide_parameters": None,
    "wide_macs": None,
    "wide_latency": None,
    "wide_peak_memory": None,
    "explained_variance": "higher",
    "psnr": "higher",
    "ssim": "higher",
    "kernel_distance": "lower",
    "frechet_distance": "lower",
    "perceptual_distance": "lower",
    "diversity": "higher",
    "pixel_accuracy": "higher",
    "miou": "higher",
    "content_kept": "higher",
    "rmse": "lower",
    "coverage": None,
}


@dataclass(frozen=True)
class Findings:
    """What one protocol found out.

    Attributes:
        measures: The figures.
        curves: The columns to be drawn.
        protocol: How they were measured, plain JSON.
        pictures: To be shown.
    """

    measures: tuple[Measure, ...] = ()
    curves: tuple[Curve, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Pictures, ...] = ()


def measure(name: str, value: float, interval: Interval | None = None, words: str = "", **facts: Any) -> Measure:
    """A `Measure` whose direction is looked up in `BETTER`; `words` says how the interval was made."""
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Measure(
        name, float(value), better=BETTER[name], low=low, high=high, interval=words if interval else "", **facts
    )


def merged(parts: Iterable[Findings], protocol: Mapping[str, Any]) -> Findings:
    """The measures, curves and pictures of several findings under one description of how they were made."""
    parts = list(parts)
    return Findings(
        tuple(found for part in parts for found in part.measures),
        tuple(curve for part in parts for curve in part.curves),
        protocol,
        tuple(found for part in parts for found in part.pictures),
    )

"""Directions of measures, and findings merged."""

from pluriform.evaluation.bootstrap import Interval
from pluriform.evaluation.findings import Findings, measure, merged


def test_a_measure_knows_its_direction_and_interval():
    found = measure("ece", 0.1, Interval(0.05, 0.2), "bootstrap", count=7)
    assert (found.better, found.low, found.high, found.interval, found.count) == ("lower", 0.05, 0.2, "bootstrap", 7)
    assert measure("coverage", 1.0).better is None


def test_merged_keeps_the_order():
    parts = [Findings((measure("accuracy", 1.0),)), Findings((measure("nll", 0.0),))]
    assert [found.name for found in merged(parts, {"a": 1}).measures] == ["accuracy", "nll"]

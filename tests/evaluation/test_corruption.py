"""Corrupted accuracy: conditions, a reference loop, unknown names."""

import pytest

from pluriform.data.corruption import corrupt
from pluriform.errors import ConfigError
from pluriform.evaluation.corruption import measure_corruption
from pluriform.evaluation.subject import Subject


def test_figures_equal_a_plain_loop(form, data):
    found = measure_corruption(Subject(form, data), ["gaussian_noise"], (1, 5))
    assert [dict(entry.condition) for entry in found.measures] == [
        {"corruption": "gaussian_noise", "severity": 1},
        {"corruption": "gaussian_noise", "severity": 5},
    ]
    for entry in found.measures:
        moved = corrupt(data.test.inputs, "gaussian_noise", entry.condition["severity"], bounds=(0.0, 1.0), seed=0)
        right = (form.predict(moved).mean.argmax(-1) == data.test.targets).double().mean()
        assert entry.value == pytest.approx(float(right))
        assert entry.low <= entry.value <= entry.high


def test_the_default_has_several_kinds_and_severities(form, data):
    found = measure_corruption(Subject(form, data))
    assert len(found.protocol["corruptions"]["names"]) >= 3
    assert found.protocol["corruptions"]["severities"] == [1, 3, 5]


def test_an_unknown_corruption_is_named(form, data):
    with pytest.raises(ConfigError, match="expected corruptions among .*gaussian_noise.*; got rain"):
        measure_corruption(Subject(form, data), ["rain"])

"""Corrupted accuracy: conditions, a reference loop, unknown names."""

import pytest
import torch
from torch import nn

from pluriform.data.corruption import TABLE_CORRUPTIONS, corrupt
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError
from pluriform.evaluation.corruption import measure_corruption
from pluriform.evaluation.evaluate import _Plain
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
    assert len(found.protocol["corruptions"]["names"]) == 4
    assert len({tuple(entry.condition.values()) for entry in found.measures}) == len(found.measures) == 12
    assert found.protocol["corruptions"]["severities"] == [1, 3, 5]


def test_an_unknown_corruption_is_named(form, data):
    with pytest.raises(ConfigError, match="expected corruptions among .*gaussian_noise.*; got rain"):
        measure_corruption(Subject(form, data), ["rain"])


def test_tables_have_their_own_kinds():
    def split(size):
        inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
        return Split(inputs, (inputs[:, 0] > 0).long())

    table = Data("table", "classification", split(50), split(30), split(40), ("no", "yes"))
    found = measure_corruption(Subject(_Plain(nn.Linear(4, 2), table.signature), table))
    assert found.protocol["corruptions"]["names"] == list(TABLE_CORRUPTIONS)
    assert len(found.measures) == 3 * len(TABLE_CORRUPTIONS)

"""Diversity of members: Jensen's inequality, identical members, single networks."""

import pytest

from pluriform.evaluation.diversity import measure_diversity
from pluriform.evaluation.subject import Subject
from pluriform.metrics.classification import accuracy, nll


def test_figures_equal_plain_means_and_the_ensemble_gains(pair, data):
    subject = Subject(pair, data)
    found = {entry.name: entry for entry in measure_diversity(subject).measures}
    members, y = subject.test.prediction.members, subject.test.targets
    assert found["member_accuracy"].value == pytest.approx(sum(accuracy(p, y) for p in members) / 2)
    assert found["member_nll"].value == pytest.approx(sum(nll(p, y) for p in members) / 2)
    assert found["member_nll"].value >= nll(subject.test.prediction.mean, y)
    differ = (members[0].argmax(-1) != members[1].argmax(-1)).double().mean()
    assert found["disagreement"].value == pytest.approx(float(differ))


def test_identical_members_agree_and_a_single_network_has_no_diversity(pair, form, data):
    same = type(pair)(pair.parts[0], pair.parts[0], data.signature)
    assert {e.name: e.value for e in measure_diversity(Subject(same, data)).measures}["disagreement"] == 0
    assert measure_diversity(Subject(form, data)).measures == ()

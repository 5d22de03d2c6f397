"""The verdict on members of known diversity: one network under noise, two modes, a line, independent members."""

import pytest
import torch

from pluriform.errors import ShapeError
from pluriform.metrics.collapse import judge_diversity, judge_spread
from pluriform.metrics.diversity import weight_diversity

CLASSES, SAMPLES = 5, 400


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.randint(0, CLASSES, (SAMPLES,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits(labels):
    """Of one network that is right on about nine of ten samples."""
    return 2.5 * torch.nn.functional.one_hot(labels, CLASSES) + draw(SAMPLES, CLASSES)


def members(logits, size, spread):
    return (logits + spread * draw(size, SAMPLES, CLASSES, seed=2)).softmax(-1)


def test_independent_members_are_diverse(logits, labels):
    found = judge_diversity(members(logits, 10, 1.0), labels)
    assert found.kind == "diverse"
    assert found.words.startswith("diverse: the 10 members differ (")
    assert found.effective_rank > 8
    assert 0.1 < found.information < 0.6
    assert 0.3 < found.disagreement <= 1


@pytest.mark.parametrize("size", [2, 10])
def test_one_network_under_small_noise_has_collapsed(logits, labels, size):
    found = judge_diversity(members(logits, size, 0.02), labels)
    assert found.kind == "collapsed"
    assert f"the {size} members are one network" in found.words
    assert judge_diversity(members(logits, size, 0.5), labels).kind == "diverse"


def test_two_modes_and_a_line_are_narrow_however_many_are_drawn(logits, labels):
    modes = members(logits, 2, 1.0)[torch.arange(20) % 2]
    found = judge_diversity(modes, labels)
    assert (found.kind, round(found.effective_rank, 3)) == ("narrow", 1)
    line = (
        logits + torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)[:, None, None] * draw(SAMPLES, CLASSES)
    ).softmax(-1)
    assert judge_diversity(line, labels).kind == "narrow"
    assert judge_diversity(modes[:4], labels).kind == "diverse"


def test_disagreement_never_exceeds_what_errors_allow(labels):
    for seed in range(5):
        random = draw(2, SAMPLES, CLASSES, seed=seed).softmax(-1)
        assert judge_diversity(random, labels).disagreement <= 1


def test_members_certain_of_everything_are_judged_by_their_weights(labels):
    certain = torch.nn.functional.one_hot(labels, CLASSES).double().expand(6, -1, -1)
    assert judge_diversity(certain, labels).kind == "unknown"
    far, near = draw(6, 50), draw(1, 50) + 1e-5 * draw(6, 50)
    assert judge_diversity(certain, labels, weight_diversity({"weight": far})).kind == "unknown"
    found = judge_diversity(certain, labels, weight_diversity({"weight": near}))
    assert found.kind == "collapsed"
    assert "their weights lie 0.00084 % from their mean" in found.words


def test_one_member_is_refused(labels):
    with pytest.raises(ShapeError, match="expected at least 2 members; got 1"):
        judge_diversity(torch.full((1, SAMPLES, CLASSES), 0.2), labels)


def test_regression_is_judged_by_the_spread_against_the_error():
    truth = draw(300, 2)
    mean = truth + 0.1 * draw(300, 2, seed=1)
    spread = draw(8, 300, 2, seed=2)
    far = judge_spread(mean + 0.05 * spread, truth)
    assert far.kind == "diverse"
    assert far.information == pytest.approx(0.05**2 / (0.05**2 + 0.1**2 + 0.05**2 / 8), rel=0.1)
    near = judge_spread(mean + 0.0005 * spread, truth)
    assert near.kind == "collapsed"
    assert "0.47 % of their total error" in near.words
    assert judge_spread(mean + 0.05 * spread[:2][torch.arange(8) % 2], truth).kind == "narrow"
    assert judge_spread(mean[None].expand(3, -1, -1), mean).kind == "collapsed"

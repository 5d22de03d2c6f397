"""Losses of attacks against hand computations, NumPy sorting and finite differences."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from pluriform.attacks.objective import cross_entropy, dlr, margin, targeted_dlr
from pluriform.errors import ConfigError


@pytest.fixture
def logits():
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.arange(50) % 6


def slow(logits, label, target=None):
    """The formulas of a single sample, by full sorting."""
    z = logits.numpy()
    down = np.sort(z)[::-1]
    other = max(value for i, value in enumerate(z) if i != label)
    if target is not None:
        return -(z[label] - z[target]) / (down[0] - (down[2] + down[3]) / 2)
    return other - z[label], -(z[label] - other) / (down[0] - down[2])


def test_losses_are_their_formulas(logits, labels):
    targets = (labels + 2) % 6
    expected = [slow(z, int(y)) for z, y in zip(logits, labels, strict=True)]
    assert margin(logits, labels).tolist() == pytest.approx([gap for gap, _ in expected], abs=1e-10)
    assert dlr(logits, labels).tolist() == pytest.approx([ratio for _, ratio in expected], abs=1e-9)
    towards = [slow(z, int(y), int(t)) for z, y, t in zip(logits, labels, targets, strict=True)]
    assert targeted_dlr(targets)(logits, labels).tolist() == pytest.approx(towards, abs=1e-9)
    normal = (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
    torch.testing.assert_close(cross_entropy(logits, labels), -normal[torch.arange(50), labels])


def test_signs_tell_right_from_wrong(logits, labels):
    right = logits.argmax(1) == labels
    assert 0 < right.sum() < 50
    assert torch.equal(margin(logits, labels) < 0, right)
    assert torch.equal(dlr(logits, labels) < 0, right)
    assert ((dlr(logits, labels) >= -1) & (dlr(logits, labels) <= 0))[right].all()


@pytest.mark.parametrize("loss", [dlr, targeted_dlr((torch.arange(50) + 1) % 6)], ids=["dlr", "targeted"])
def test_ratios_ignore_scale_and_shift_of_the_logits(logits, labels, loss):
    torch.testing.assert_close(loss(1e4 * logits - 7, labels), loss(logits, labels))
    assert (loss(1e4 * logits.float() + 1e3, labels) - loss(logits, labels)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["cross_entropy", "margin", "dlr", "targeted_dlr"])
def test_gradients_are_finite_differences(logits, labels, kind):
    loss = {
        "cross_entropy": cross_entropy,
        "margin": margin,
        "dlr": dlr,
        "targeted_dlr": targeted_dlr((labels + 1) % 6),
    }[kind]
    assert gradcheck(lambda z: loss(z, labels), logits.requires_grad_())


def test_equal_logits_give_finite_losses(labels):
    flat = torch.zeros(50, 6)
    for loss in (margin, dlr, targeted_dlr((labels + 1) % 6)):
        assert loss(flat, labels).abs().max() == 0


@pytest.mark.parametrize(
    ("loss", "width", "words"),
    [
        (margin, 1, "expected at least 2 classes for margin; got 1"),
        (dlr, 2, "expected at least 3 classes for the DLR loss; got 2 .*cross-entropy or the margin"),
        (targeted_dlr(torch.zeros(4, dtype=torch.long)), 3, "expected at least 4 classes for the targeted DLR loss"),
    ],
)
def test_too_few_classes_are_refused(loss, width, words):
    with pytest.raises(ConfigError, match=words):
        loss(torch.zeros(4, width), torch.zeros(4, dtype=torch.long))

import dataclasses

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError
from pluriform.training.loss import Loss, class_weights
from pluriform.training.recipe import Recipe


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_stacked_members_have_the_loss_of_each(smoothing, weighted):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 8, 4, generator=generator)
    targets = torch.randint(0, 4, (3, 8), generator=generator)
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0]) if weighted else None
    loss = Loss("classification", smoothing, weights)
    oracle = nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
    expected = torch.stack([oracle(o, t) for o, t in zip(outputs, targets, strict=True)])
    assert torch.allclose(loss(outputs, targets), expected, atol=1e-6)
    assert torch.allclose(loss(outputs[0], targets[0]), expected[0], atol=1e-6)


def test_regression_is_the_mean_square():
    outputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)
    assert Loss("regression")(outputs, targets) == 7.5
    assert torch.equal(Loss("regression")(outputs.expand(3, 2, 2), targets), torch.full((3,), 7.5))


def test_balanced_weights_even_out_the_classes(digits):
    weights = class_weights(Recipe(class_weights="balanced"), digits)
    counts = torch.bincount(digits.train.targets, minlength=10).float()
    assert torch.allclose(weights * counts, torch.full((10,), 20.0))


def test_given_weights_must_fit(digits):
    assert class_weights(Recipe(), digits) is None
    given = tuple(float(i + 1) for i in range(10))
    assert class_weights(Recipe(class_weights=given), digits).tolist() == list(given)
    with pytest.raises(ConfigError, match="expected 10 class weights; got 2"):
        class_weights(Recipe(class_weights=(1.0, 2.0)), digits)
    regression = dataclasses.replace(digits, task="regression")
    with pytest.raises(ConfigError, match="classification in memory for class weights; got regression"):
        class_weights(Recipe(class_weights="balanced"), regression)

"""Selective risk against a loop over coverages."""

import pytest
import torch

from pluriform.metrics.selective import aurc, risk_coverage


def test_risks_made_by_hand():
    curve = risk_coverage(torch.tensor([0.5, 0.9, 0.7]), torch.tensor([1.0, 0.0, 1.0]))
    assert curve.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3])


def test_aurc_equals_a_loop_without_ties():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=generator, dtype=torch.float64)
    errors = (torch.rand(300, generator=generator) < 0.3).float()
    ordered = errors[confidence.argsort(descending=True)]
    risks = [float(ordered[: k + 1].mean()) for k in range(300)]
    assert aurc(confidence, errors) == pytest.approx(sum(risks) / 300)


def test_ties_give_the_mean_over_all_orders():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.randint(0, 4, (40,), generator=generator).double()
    errors = torch.randint(0, 2, (40,), generator=generator).double()
    shaken = [aurc(confidence + 1e-6 * torch.rand(40, generator=generator), errors) for _ in range(2000)]
    assert aurc(confidence, errors) == pytest.approx(sum(shaken) / 2000, abs=2e-3)


def test_equal_confidence_gives_the_error_rate():
    assert aurc(torch.ones(10), torch.tensor([1.0] * 3 + [0.0] * 7)) == pytest.approx(0.3)

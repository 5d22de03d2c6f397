"""Scales, amplitudes and ridges against brute force."""

import pytest
import torch

from pluriform.gaussian_process.exact import condition, spectrum
from pluriform.infinite.calibration import RIDGES, choose_ridge, fit_scale, held_out_in_folds, regression_loss
from pluriform.infinite.predict.gradient_flow import gradient_flow


def problem(n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    gram = torch.exp(-0.5 * torch.cdist(x, x) ** 2)
    y = torch.sin(2 * x[:, :1]) + 0.3 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return gram, y


def test_scale_minimises_the_likelihood_with_one_imaginary_sample():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=3.0 * latent).probs.multinomial(1, generator=generator)[:, 0]
    fitted = fit_scale(latent, labels)
    grid = torch.linspace(1, 6, 2001)
    losses = [
        float(torch.nn.functional.cross_entropy(s * latent, labels) * 200) - float((s * latent).log_softmax(1).mean())
        for s in grid
    ]
    assert fitted.scale == pytest.approx(float(grid[torch.tensor(losses).argmin()]), abs=0.05)
    assert fitted.scale == pytest.approx(3.0, abs=0.7)


def test_separable_samples_give_a_finite_scale():
    latent = torch.eye(5, dtype=torch.float64).repeat(10, 1)
    assert fit_scale(latent, torch.arange(5).repeat(10)).scale < 20


def test_amplitude_makes_residuals_as_large_as_expected():
    residuals, variances = torch.tensor([[2.0], [-4.0]]), torch.tensor([1.0, 4.0])
    fitted = regression_loss(residuals, variances)
    assert fitted.scale == pytest.approx(4.0)
    normal = torch.distributions.Normal(0.0, (4.0 * variances).sqrt())
    assert fitted.loss == pytest.approx(-float(normal.log_prob(residuals[:, 0]).mean()), rel=1e-6)


def test_the_chosen_ridge_is_the_best_by_refitting_without_each_sample():
    gram, y = problem()

    def loss(relative):
        residuals, variances = torch.empty_like(y), torch.empty(len(y)).double()
        for i in range(len(y)):
            rest = torch.arange(len(y)) != i
            process = condition(gram[rest][:, rest], y[rest], relative)
            residuals[i] = y[i] - process.mean(gram[i, rest][None])[0]
            variances[i] = process.variance(gram[i, rest][None], gram[i, i][None])[0] + relative
        return regression_loss(residuals, variances).loss

    assert choose_ridge(spectrum(gram, y), 1.0, None) == min(RIDGES, key=loss)


def test_folds_predict_each_sample_by_networks_that_have_not_seen_it():
    gram, y = problem()
    seen = []

    def train(nngp, ntk, targets):
        seen.append(targets)
        return gradient_flow(nngp, ntk, targets, ridge=0.1, kernel="nngp")

    held_out = held_out_in_folds(gram, None, y, train, 0.1, 0)
    assert [len(part) for part in seen] == [32] * 5
    for i in (0, 17, 39):
        fold = next(part for part in seen if not bool((part == y[i]).any()))
        rest = torch.cat([(y[:, 0] == value).nonzero()[0] for value in fold[:, 0]])
        process = condition(gram[rest][:, rest], y[rest], 0.1)
        assert torch.allclose(held_out.means[i], process.mean(gram[i, rest][None])[0])
        expected = process.variance(gram[i, rest][None], gram[i, i][None])[0] + 0.1
        assert torch.allclose(held_out.variances[i], expected)

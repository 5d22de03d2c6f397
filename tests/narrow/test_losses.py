import pytest
import scipy.stats
import torch

from pluriform.narrow.losses import distillation, imitation, softened_divergence, target_variance


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1, 4.0])
def test_the_divergence_is_that_of_scipy(logits, temperature):
    own, wide = logits
    p, q = ((part / temperature).softmax(-1).numpy() for part in (wide, own))
    expected = temperature**2 * scipy.stats.entropy(p, q, axis=1).mean()
    assert float(softened_divergence(own, wide, temperature)) == pytest.approx(expected, rel=1e-12)


def test_equal_logits_diverge_by_nothing(logits):
    assert float(softened_divergence(logits[0], logits[0].clone(), 4)) == 0
    shifted = logits[0] + torch.arange(7.0)[:, None]  # A softmax does not see a shift.
    assert float(softened_divergence(shifted, logits[0], 4)) == pytest.approx(0, abs=1e-14)


def test_gradients_keep_their_size_at_high_temperatures(logits):
    """For T to infinity, T^2 KL is half the mean square of the difference of centred logits."""
    own, wide = (part - part.mean(-1, keepdim=True) for part in logits)
    limit = ((own - wide).square().sum(-1) / (2 * 5)).mean()
    assert float(softened_divergence(*logits, 1000)) == pytest.approx(float(limit), rel=1e-2)


def test_without_a_share_loss_and_gradients_are_the_plain_ones_bit_for_bit(logits):
    labels = torch.arange(7) % 5
    own = logits[0].float().requires_grad_()
    plain = torch.nn.functional.cross_entropy(own, labels)
    mixed = distillation(own, logits[1].float(), plain, alpha=0, temperature=4)
    first, second = (torch.autograd.grad(loss, own, retain_graph=True)[0] for loss in (plain, mixed))
    assert torch.equal(plain, mixed)
    assert torch.equal(first, second)


def test_shares_mix(logits):
    own, wide = logits
    plain = torch.tensor(2.0, dtype=torch.float64)
    far = softened_divergence(own, wide, 4)
    assert torch.allclose(distillation(own, wide, plain, alpha=0.25, temperature=4), 1.5 + 0.25 * far)
    squares = distillation(own, wide, plain, alpha=0.25, temperature=4, classification=False)
    assert torch.allclose(squares, 1.5 + 0.25 * (own - wide).square().mean())


@pytest.mark.parametrize(("shape", "axis"), [((40, 6), 1), ((40, 6, 3, 2), 1), ((40, 3, 6), -1), ((40, 3, 6), 2)])
def test_one_minus_imitation_is_the_explained_variance(shape, axis):
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 5
    others = tuple(place for place in range(len(shape)) if place != axis % len(shape))
    means = wide.mean(others, keepdim=True)
    assert float(imitation(wide.clone(), wide, axis=axis)) == 0
    assert float(imitation(means.expand_as(wide), wide, axis=axis)) == pytest.approx(1, rel=1e-12)
    rows = wide.movedim(axis, -1).flatten(0, -2)  # A third of the spread is left: a ninth of the variance.
    assert float(imitation(means + (wide - means) * 2 / 3, wide, axis=axis)) == pytest.approx(1 / 9, rel=1e-9)
    assert float(target_variance(wide, axis)) == pytest.approx(rows.numpy().var(0).mean(), rel=1e-12)
    known = imitation(means.expand_as(wide), wide, axis=axis, variance=2 * float(target_variance(wide, axis)))
    assert float(known) == pytest.approx(0.5, rel=1e-12)


def test_a_target_that_never_varies_gives_finite_losses():
    assert float(imitation(torch.ones(4, 2), torch.ones(4, 2))) == 0

import math

import pytest
import torch
from torch import nn

from pluriform.errors import ShapeError
from pluriform.translate import losses
from pluriform.translate.discriminator import MultiScaleDiscriminator, PatchDiscriminator
from pluriform.translate.encoder import Posterior


def outputs(seed, batch=2):
    generator = torch.Generator().manual_seed(seed)
    sides = ((9, 5, 6), (5, 3, 4))
    channels = (4, 8, 1)
    return [
        [torch.randn(batch, c, n, n, generator=generator) for c, n in zip(channels, scale, strict=True)]
        for scale in sides
    ]


def averaged(given, of_number):
    """Mean over the numbers of each map of scores, then over scales, one number at a time."""
    per_scale = [[of_number(number) for number in scale[-1].flatten().tolist()] for scale in given]
    return sum(sum(numbers) / len(numbers) for numbers in per_scale) / len(per_scale)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


DIRECT = {
    "hinge": (lambda s: max(0, 1 - s), lambda s: max(0, 1 + s), lambda s: -s, 1),
    "least_squares": (lambda s: (s - 1) ** 2, lambda s: s**2, lambda s: (s - 1) ** 2, 2),
    "cross_entropy": (
        lambda s: -math.log(sigmoid(s)),
        lambda s: -math.log(1 - sigmoid(s)),
        lambda s: -math.log(sigmoid(s)),
        2,
    ),
}


@pytest.mark.parametrize("kind", DIRECT)
def test_adversarial_losses_against_sums_over_numbers(kind):
    real, fake = outputs(0), outputs(1)
    of_real, of_fake, of_generator, halves = DIRECT[kind]
    expected = (averaged(real, of_real) + averaged(fake, of_fake)) / halves
    assert float(getattr(losses, f"{kind}_discriminator")(real, fake)) == pytest.approx(expected, rel=1e-5)
    assert float(getattr(losses, f"{kind}_generator")(fake)) == pytest.approx(averaged(fake, of_generator), rel=1e-5)


def test_scores_of_zero():
    zero = [[torch.zeros(2, 1, 3, 3)]]
    assert losses.hinge_discriminator(zero, zero) == 2
    assert losses.hinge_generator(zero) == 0
    assert float(losses.cross_entropy_discriminator(zero, zero)) == pytest.approx(math.log(2))


def test_feature_matching_against_the_definition():
    real, fake = outputs(0), outputs(1)
    expected = 0.0
    for ours, theirs in zip(real, fake, strict=True):
        expected += sum(float((a - b).abs().sum()) / a.numel() for a, b in zip(ours[:-1], theirs[:-1], strict=True))
    assert float(losses.feature_matching(real, fake)) == pytest.approx(expected / 2, rel=1e-5)
    assert losses.feature_matching(real, real) == 0
    other = [[*scale[:-1], scale[-1] + 1] for scale in fake]  # Scores do not count.
    assert losses.feature_matching(real, other) == losses.feature_matching(real, fake)


def test_feature_matching_sends_no_gradient_into_the_real_side():
    real, fake = ([[part.requires_grad_() for part in scale] for scale in outputs(seed)] for seed in (0, 1))
    losses.feature_matching(real, fake).backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


def test_perceptual_loss_against_the_definition():
    net = nn.Conv2d(3, 4, 3)

    def extractor(x):
        return [net(x), net(x).relu().square()]

    x, y = torch.randn(2, 2, 3, 6, 6)
    x.requires_grad_()
    pairs = zip((0.5, 2.0), extractor(x), extractor(y), strict=True)
    expected = sum(w * float((a - b).detach().abs().mean()) for w, a, b in pairs)
    found = losses.perceptual(extractor, x, y, (0.5, 2))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    assert losses.perceptual(extractor, x, x, (0.5, 2)).detach() == 0
    found.backward()
    assert x.grad is not None
    with pytest.raises(ShapeError, match="2 weights, one a layer; got 1"):
        losses.perceptual(extractor, x, y, (1.0,))


def test_l1_refuses_shapes_that_would_broadcast():
    assert losses.l1(torch.ones(2, 3), torch.full((2, 3), -1.0)) == 2
    with pytest.raises(ShapeError, match=r"two tensors of \(2, 3\); got \(1, 3\)"):
        losses.l1(torch.ones(2, 3), torch.ones(1, 3))


def test_kl_against_distributions():
    mean, log_variance = torch.randn(2, 3, 5).unbind()
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses.gaussian_kl(Posterior(mean, log_variance)), expected)
    assert losses.gaussian_kl(Posterior(torch.zeros(2, 4), torch.zeros(2, 4))) == 0


def test_r1_of_a_linear_discriminator_is_half_the_square_of_its_weight():
    net = nn.Conv2d(3, 1, 4, bias=False)
    penalty = losses.r1_penalty(lambda x: [[net(x)]], torch.randn(5, 3, 4, 4))
    torch.testing.assert_close(penalty, net.weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(net.weight.grad, net.weight.detach())


def test_r1_reaches_the_weights_of_a_patch_discriminator():
    torch.manual_seed(0)
    net = PatchDiscriminator(2, 4, 2).double().eval()
    real = torch.randn(2, 2, 8, 8, dtype=torch.double)

    def penalty(value):
        with torch.no_grad():
            net.stages[1][0].weight[0, 0, 0, 0] = value
        return losses.r1_penalty(lambda x: [net(x)], real)

    start = float(net.stages[1][0].weight[0, 0, 0, 0].detach())
    (slope,) = torch.autograd.grad(penalty(start), net.stages[1][0].weight)
    near = [float(penalty(start + step).detach()) for step in (1e-4, -1e-4)]
    assert float(slope[0, 0, 0, 0]) == pytest.approx((near[0] - near[1]) / 2e-4, rel=1e-3)


def test_half_precision_scores_are_averaged_in_float32():
    scores = [[torch.full((1, 1, 100, 100), 1000.0, dtype=torch.float16)]]
    assert losses.hinge_generator(scores) == -1000
    assert float(losses.least_squares_generator(scores)) == pytest.approx(999**2, rel=1e-6)


def test_losses_take_what_discriminators_give():
    net = MultiScaleDiscriminator(3, 4, 2)
    real, fake = net(torch.randn(1, 3, 32, 32)), net(torch.randn(1, 3, 32, 32))
    total = losses.hinge_discriminator(real, fake) + losses.feature_matching(real, fake)
    total.backward()
    assert all(p.grad is not None for p in net.parameters())

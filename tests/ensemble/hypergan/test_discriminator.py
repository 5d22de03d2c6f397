"""The adversarial game: who gets which gradient, and what a step of either side does."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from pluriform.ensemble.hypergan.discriminator import PENALTY, Discriminator
from pluriform.ensemble.hypergan.mixer import Mixer

LAYERS, SIZE, NOISE = 3, 6, 10


@pytest.fixture
def game():
    torch.manual_seed(0)
    return Discriminator(SIZE, 32), Mixer(NOISE, LAYERS, SIZE, 32), torch.randn(64, NOISE)


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


def apart(judge, codes):
    """D(prior) - D(codes), of the same prior samples each time."""
    with torch.no_grad():
        prior = torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
        return float(judge(prior).mean() - judge(codes).mean())


def test_values_are_those_of_the_equations(game):
    judge, mixer, noise = game
    codes = mixer(noise).detach()
    torch.manual_seed(3)
    found = judge.losses(codes)
    torch.manual_seed(3)
    prior = torch.randn_like(codes).requires_grad_()
    slope = torch.autograd.grad(judge(prior).sum(), prior)[0]
    true, false = judge(prior).sigmoid(), judge(codes).sigmoid()
    expected = -true.log().mean() - (1 - false).log().mean() + PENALTY / 2 * slope.square().sum(-1).mean()
    torch.testing.assert_close(found.discriminator, expected)
    torch.testing.assert_close(found.codes, -false.log().mean())


def test_each_gradient_reaches_its_side_only(game):
    judge, mixer, noise = game
    judge.losses(mixer(noise)).discriminator.backward()
    assert all(grad is None for grad in gradients(mixer))
    assert all(grad.abs().sum() > 0 for grad in gradients(judge)[:-1])
    judge.zero_grad()
    judge.losses(mixer(noise)).codes.backward()
    assert all(grad is None for grad in gradients(judge))
    assert all(grad.abs().sum() > 0 for grad in gradients(mixer))


def test_both_sides_in_one_pass_get_what_each_gets_alone(game):
    judge, mixer, noise = game
    alone = []
    for part in ("discriminator", "codes"):
        torch.manual_seed(4)
        getattr(judge.losses(mixer(noise)), part).backward()
        side = judge if part == "discriminator" else mixer
        alone += [grad.clone() for grad in gradients(side)]
        judge.zero_grad()
        mixer.zero_grad()
    torch.manual_seed(4)
    both = judge.losses(mixer(noise))
    (both.discriminator + 3 * both.codes).backward()
    count = len(gradients(judge))
    for found, expected in zip(gradients(judge), alone[:count], strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(gradients(mixer), alone[count:], strict=True):
        torch.testing.assert_close(found, 3 * expected)


def test_a_step_of_the_discriminator_tells_codes_from_the_prior(game):
    judge, mixer, noise = game
    codes = mixer(noise).detach()
    before = apart(judge, codes)
    optimizer = torch.optim.SGD(judge.parameters(), lr=1e-2)
    judge.losses(codes).discriminator.backward()
    optimizer.step()
    assert apart(judge, codes) > before


def test_a_step_of_the_mixer_alone_raises_the_opinion_of_its_codes(game):
    judge, mixer, noise = game
    before, kept = judge(mixer(noise)).mean().item(), copy.deepcopy(judge.state_dict())
    optimizer = torch.optim.SGD([*mixer.parameters(), *judge.parameters()], lr=1e-2)
    judge.losses(mixer(noise)).codes.backward()
    optimizer.step()
    assert judge(mixer(noise)).mean() > before
    assert all(torch.equal(tensor, judge.state_dict()[name]) for name, tensor in kept.items())


def test_a_constant_discriminator_gives_no_gradient(game):
    judge, mixer, noise = game
    with torch.no_grad():
        judge.body[-1].weight.zero_()
    losses = judge.losses(mixer(noise))
    losses.codes.backward()
    assert all(float(grad.abs().sum()) == 0 for grad in gradients(mixer))
    torch.testing.assert_close(losses.codes, F.softplus(-judge.body[-1].bias).squeeze())


def test_who_cannot_tell_pays_two_logarithms_of_two():
    judge = Discriminator(4, 8)
    with torch.no_grad():
        judge.body[-1].weight.zero_()
        judge.body[-1].bias.zero_()
    assert judge.losses(torch.randn(9, 2, 4)).discriminator.item() == pytest.approx(2 * math.log(2))


def test_one_network_judges_the_codes_of_every_layer(game):
    judge, mixer, noise = game
    codes = mixer(noise)
    assert judge(codes).shape == (64, LAYERS)
    torch.testing.assert_close(judge(codes)[:, 1], judge(codes[:, 1]))


def test_no_other_random_numbers_than_torchs_are_used(game):
    judge, mixer, noise = game
    losses = []
    for _ in range(2):
        torch.manual_seed(7)
        losses.append(judge.losses(mixer(noise)))
    assert torch.equal(losses[0].discriminator, losses[1].discriminator)
    assert not torch.equal(judge.losses(mixer(noise)).discriminator, losses[0].discriminator)

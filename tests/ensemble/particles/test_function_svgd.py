"""Function-space directions against autograd and distributions, and what repulsion does to networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pluriform.ensemble.particles.function_svgd import (
    cross_entropy_scores,
    extra_inputs,
    function_prior_scores,
    function_svgd_direction,
)
from pluriform.ensemble.particles.svgd import particle_loss
from pluriform.errors import BoundsError, ConfigError, ShapeError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("own", [True, False])
def test_direction_is_the_direct_sum_over_members(own: bool):
    outputs, scores = normal(4, 3, 2), normal(4, 3, 2, seed=1)
    expected = torch.zeros_like(outputs)
    for i in range(4):
        for j in range(4):
            free = outputs[j].clone().requires_grad_()
            value = torch.exp(-((free - outputs[i]) ** 2).sum() / 3)
            if own or i != j:
                expected[i] += value.detach() * scores[j] + 0.5 * torch.autograd.grad(value, free)[0]
    found = function_svgd_direction(outputs, scores, bandwidth=3, entropy=0.5, own=own)
    torch.testing.assert_close(found, expected / (4 if own else 3))


def test_one_member_climbs_the_likelihood():
    outputs, scores = normal(1, 3, 2), normal(1, 3, 2, seed=1)
    torch.testing.assert_close(function_svgd_direction(outputs, scores), scores)


@pytest.mark.parametrize("samples", [None, 600])
def test_cross_entropy_scores_are_its_gradient(samples: int | None):
    outputs, labels = normal(3, 7, 4).requires_grad_(), torch.tensor([0, 3, 1, 1, 2])
    likelihood = -sum(nn.functional.cross_entropy(one[:5], labels, reduction="sum") for one in outputs)
    expected = torch.autograd.grad(likelihood * (1 if samples is None else samples / 5), outputs)[0]
    torch.testing.assert_close(cross_entropy_scores(outputs.detach(), labels, samples), expected)


def test_prior_scores_are_those_of_the_gaussian_of_the_draws():
    root = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [0.2, 0.3, 0.8]], dtype=torch.float64)
    draws = torch.einsum("pq,dqc->dpc", root, normal(50_000, 3, 2)) + 0.5
    outputs = normal(4, 3, 2, seed=1).requires_grad_()
    prior = torch.distributions.MultivariateNormal(torch.full((3,), 0.5).double(), root @ root.T)
    expected = torch.autograd.grad(prior.log_prob(outputs.transpose(1, 2)).sum(), outputs)[0]
    found = function_prior_scores(outputs.detach(), draws, ridge=1e-9)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.02)
    few = function_prior_scores(outputs.detach(), draws[:2], ridge=0.1)  # Fewer draws than points: the ridge carries.
    assert few.isfinite().all()


def test_extra_inputs_follow_the_batch_inside_the_bounds():
    inputs = normal(50, 3, 4)
    both = extra_inputs(inputs, (-2, 3), 0.1, torch.Generator().manual_seed(0))
    again = extra_inputs(inputs, (-2, 3), 0.1, torch.Generator().manual_seed(0))
    assert both.shape == (55, 3, 4)
    assert both.dtype == inputs.dtype
    assert torch.equal(both[:50], inputs)
    assert torch.equal(both, again)
    many = extra_inputs(inputs, (-2, 3), 20.0, torch.Generator().manual_seed(1))[50:]
    assert many.min() >= -2
    assert many.max() <= 3
    assert many.mean().item() == pytest.approx(0.5, abs=0.05)
    assert many.var().item() == pytest.approx(25 / 12, abs=0.05)
    assert len(extra_inputs(inputs[:2], (0, 1), 0.1, torch.Generator())) == 3
    assert torch.equal(extra_inputs(inputs, (0, 1), 0, torch.Generator()), inputs)


def trained(entropy: float) -> tuple[float, float]:
    """Mean disagreement away from the data, and the members' accuracy on it, of 8 networks on two blobs."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(8)]
    weights, _ = stack_module_state(members)
    base, random = members[0], torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    inputs = 0.3 * torch.randn(40, 2, generator=random) + torch.stack([2.0 * labels - 1, torch.zeros(40)], dim=1)
    optimiser = torch.optim.Adam(weights.values(), lr=0.02)
    for _ in range(200):
        points = extra_inputs(inputs, (-4, 4), 0.25, random)
        outputs = vmap(lambda one, at: functional_call(base, one, (at,)), in_dims=(0, None))(weights, points)
        scores = cross_entropy_scores(outputs.detach(), labels)
        scores[:, 40:] = -outputs.detach()[:, 40:] / 9  # Prior N(0, 9) where there is no label.
        optimiser.zero_grad()
        particle_loss(outputs, function_svgd_direction(outputs.detach(), scores, entropy=entropy)).backward()
        optimiser.step()
    far = 4 * (2 * torch.rand(500, 2, generator=random) - 1)
    with torch.no_grad():
        run = vmap(lambda one, at: functional_call(base, one, (at,)), in_dims=(0, None))
        votes, right = run(weights, far).argmax(2), (run(weights, inputs).argmax(2) == labels).float().mean()
    pairs = (votes[:, None] != votes[None]).float().mean(2)
    return pairs.sum().item() / (8 * 7), right.item()


def test_repulsion_raises_disagreement_and_spares_accuracy():
    (alike, right), (unlike, still_right) = trained(entropy=0.0), trained(entropy=3.0)
    assert right > 0.97
    assert still_right > 0.95
    assert unlike > 1.3 * alike


def test_refusals():
    random = torch.Generator()
    with pytest.raises(ShapeError, match="3 labels for 2 points"):
        cross_entropy_scores(torch.zeros(1, 2, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ConfigError, match="two draws or more"):
        function_prior_scores(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ConfigError, match="prior draws that differ"):
        function_prior_scores(torch.zeros(1, 2, 2), torch.ones(3, 2, 2))
    for bounds in ((1, 0), (0, 0), (0, float("inf"))):
        with pytest.raises(BoundsError, match="finite bounds"):
            extra_inputs(torch.zeros(2, 2), bounds, 0.1, random)
    with pytest.raises(ConfigError, match=r"inputs torch\.int64"):
        extra_inputs(torch.zeros(2, 2, dtype=torch.long), (0, 1), 0.1, random)
    with pytest.raises(ConfigError, match=r"share -0\.1"):
        extra_inputs(torch.zeros(2, 2), (0, 1), -0.1, random)

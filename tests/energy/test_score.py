import pytest
import torch
from torch import nn

from pluriform.energy.score import Score, approximate_mass, check_logits, log_density
from pluriform.errors import ConfigError


def test_log_density_by_hand():
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0], [1000.0, 999.0]])
    wanted = torch.tensor([2.0, torch.e + torch.e**3, 1 + 1 / torch.e]).log() + torch.tensor([0, 0, 1000])
    assert torch.allclose(log_density(logits), wanted)
    assert log_density(logits, torch.tensor([1, 0, 1])).tolist() == [0, 1, 999]


def test_a_shift_of_all_logits_moves_the_density_and_nothing_else():
    logits, shift = torch.randn(20, 5).double(), torch.randn(20, 1).double()
    labels = torch.arange(20) % 5
    assert torch.allclose(log_density(logits + shift), log_density(logits) + shift.squeeze(1))
    assert torch.allclose(log_density(logits + shift, labels), log_density(logits, labels) + shift.squeeze(1))
    entropy = [nn.functional.cross_entropy(found, labels) for found in (logits, logits + shift)]
    assert torch.allclose(*entropy)


def test_half_precision_logits_are_summed_in_single():
    logits = torch.randn(200, 10) * 20
    found = log_density(logits.bfloat16())
    assert found.dtype == torch.float32
    assert torch.allclose(found, logits.bfloat16().float().logsumexp(-1))
    assert log_density(logits.double()).dtype == torch.float64


def test_the_gradient_of_the_contrast_is_that_of_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    data, chains = torch.randn(5, 3).double(), torch.randn(6, 3).double()

    def contrast():
        return log_density(network(chains)).mean() - log_density(network(data)).mean()

    contrast().backward()
    for parameter in network.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(len(flat)):
            kept = float(flat[place])
            values = []
            for move in (1e-6, -1e-6):
                flat[place] = kept + move
                values.append(contrast().item())
            flat[place] = kept
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(gradient[place]), abs=1e-8)


def test_approximate_mass_is_the_norm_of_each_jacobian():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(18, 4)).double()
    inputs = torch.randn(6, 1, 5, 5).double()
    found = approximate_mass(network, inputs)
    for x, mass in zip(inputs, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda one: network(one[None]).logsumexp(-1), x)
        assert float(mass) == pytest.approx(-float(jacobian.norm()), rel=1e-9)
    assert not inputs.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_approximate_mass_inside_no_grad():
    network, inputs = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.no_grad():
        assert torch.equal(approximate_mass(network, inputs), approximate_mass(network, inputs))
        assert (approximate_mass(network, inputs) < 0).all()


def test_the_score_of_a_class():
    network, inputs, labels = nn.Linear(3, 4), torch.randn(5, 3), torch.tensor([0, 3, 1, 1, 2])
    assert torch.equal(Score(network, labels)(inputs), network(inputs)[torch.arange(5), labels])
    assert torch.equal(Score(network)(inputs), network(inputs).logsumexp(-1))


@pytest.mark.parametrize("last", [nn.LogSoftmax(-1), nn.Softmax(-1)])
def test_normalised_outputs_are_refused(last):
    outputs = last(torch.randn(50, 7) * 5)
    with pytest.raises(ConfigError, match="softmax out of the network"):
        check_logits(outputs, "here")


def test_logits_pass():
    check_logits(torch.randn(50, 7), "here")
    check_logits(torch.zeros(50, 7), "here")
    check_logits(torch.rand(50, 7), "here")
    check_logits(nn.functional.softplus(torch.randn(50, 1)), "here")

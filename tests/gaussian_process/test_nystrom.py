"""Inducing samples against the dense process on the low-rank kernel they stand for."""

import pytest
import torch

from pluriform.errors import EmptySplitError, SingularKernelError
from pluriform.gaussian_process.exact import condition
from pluriform.gaussian_process.nystrom import condition_on_inducing, whitening

N, M, NEW = 40, 7, 9


def rbf(a, b):
    return torch.exp(-0.5 * torch.cdist(a, b) ** 2)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N + NEW, 2, generator=generator, dtype=torch.float64)
    y = torch.stack([x.sin().sum(1), x.prod(1)], 1)[:N]
    return x[:N], x[N:], y


@pytest.fixture(scope="module")
def process(problem):
    x, _, y = problem
    chosen = x[:M]
    return condition_on_inducing(rbf(chosen, chosen), [(rbf(x[a:b], chosen), y[a:b]) for a, b in ((0, 15), (15, N))])


def low_rank(a, b, chosen):
    return rbf(a, chosen) @ torch.linalg.solve(rbf(chosen, chosen), rbf(chosen, b))


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_mean_and_evidence_are_those_of_the_low_rank_kernel(problem, process, ridge):
    x, new, y = problem
    oracle = condition(low_rank(x, x, x[:M]), y, ridge)
    assert torch.allclose(process.mean(rbf(new, x[:M]), ridge), oracle.mean(low_rank(new, x, x[:M])), atol=1e-8)
    assert process.log_marginal_likelihood(ridge) == pytest.approx(oracle.log_marginal_likelihood(), rel=1e-8)


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_variance_is_that_of_the_deterministic_training_conditional(problem, process, ridge):
    x, new, y = problem
    own, missing = torch.ones(NEW).double(), 1 - low_rank(new, new, x[:M]).diagonal()
    low = condition(low_rank(x, x, x[:M]), y, ridge).variance(low_rank(new, x, x[:M]), own - missing)
    variance = process.variance(rbf(new, x[:M]), own, ridge)
    assert torch.allclose(variance, missing + low, atol=1e-8)
    exact = condition(rbf(x, x), y, ridge).variance(rbf(new, x), own)
    assert (variance > exact).all()
    far = torch.full((1, 2), 50.0).double()
    assert float(process.variance(rbf(far, x[:M]), own[:1], ridge)) == pytest.approx(1.0)


def test_leave_one_out_equals_leaving_each_out(problem, process):
    x, _, y = problem
    cross = rbf(x, x[:M])
    held_out = process.leave_one_out(cross, y, 0.05)
    for i in range(N):
        rest = torch.arange(N) != i
        alone = condition_on_inducing(rbf(x[:M], x[:M]), [(cross[rest], y[rest])])
        assert torch.allclose(held_out[i], alone.mean(cross[i : i + 1], 0.05)[0], atol=1e-8)


def test_all_samples_as_inducing_ones_give_the_exact_process(problem):
    x, new, y = problem
    gram, cross, own = rbf(x, x) + 1e-3 * torch.eye(N), rbf(new, x), torch.ones(NEW).double()
    process, oracle = condition_on_inducing(gram, [(gram, y)]), condition(gram, y, 0.05)
    assert torch.allclose(process.mean(cross, 0.05), oracle.mean(cross), atol=1e-6)
    assert torch.allclose(process.variance(cross, own, 0.05), oracle.variance(cross, own), atol=1e-6)
    assert process.log_marginal_likelihood(0.05) == pytest.approx(oracle.log_marginal_likelihood())


def test_more_inducing_samples_come_closer(problem):
    x, new, y = problem
    exact = condition(rbf(x, x), y, 0.05).mean(rbf(new, x))
    errors = []
    for m in (3, 10, 30):
        made = condition_on_inducing(rbf(x[:m], x[:m]), [(rbf(x, x[:m]), y)])
        errors.append(float((made.mean(rbf(new, x[:m]), 0.05) - exact).norm()))
    assert errors[2] < 0.3 * errors[1] < 0.3 * errors[0]


def test_equal_inducing_samples_do_no_harm(problem, process):
    x, new, y = problem
    chosen = torch.cat([x[:M], x[2:3]])
    made = condition_on_inducing(rbf(chosen, chosen), [(rbf(x, chosen), y)])
    assert made.projection.shape == (M + 1, M)
    assert torch.allclose(made.mean(rbf(new, chosen), 0.1), process.mean(rbf(new, x[:M]), 0.1), atol=1e-8)


def test_bad_kernels_and_no_samples_are_refused():
    with pytest.raises(SingularKernelError, match="got NaN, infinity or zeros only"):
        whitening(torch.full((2, 2), torch.nan))
    with pytest.raises(SingularKernelError, match="zeros only"):
        whitening(torch.zeros(2, 2))
    with pytest.raises(EmptySplitError, match="expected training samples"):
        condition_on_inducing(torch.eye(2), [])

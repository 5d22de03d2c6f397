"""Products without a matrix, and a solve by them, against the matrix."""

import pytest
import torch
from torch import nn

from pluriform.gaussian_process.conjugate_gradients import conjugate_gradients, nystrom_columns
from pluriform.infinite.kernel_function import kernel_of
from pluriform.infinite.predict.kernel_product import kernel_columns, kernel_product

N = 37


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    return kernel_of(net, x, bias_var=0.1), x, torch.randn(N, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@pytest.mark.parametrize("side", [10, 100])
def test_products_and_columns_are_those_of_the_matrix(problem, kernel, side):
    function, x, y = problem
    gram = getattr(function(x), kernel)
    assert torch.allclose(kernel_product(function, x, kernel=kernel, side=side)(y), gram @ y)
    index = torch.tensor([3, 30])
    assert torch.allclose(kernel_columns(function, x, kernel=kernel)(index), gram[:, index])


def test_a_kernel_is_solved_without_being_stored(problem):
    function, x, y = problem
    gram = function(x).ntk
    low = nystrom_columns(gram.diagonal(), kernel_columns(function, x), torch.arange(0, N, 2))
    made = conjugate_gradients(
        kernel_product(function, x, side=16), y, ridge=0.1, preconditioner=low.preconditioner(0.1)
    )
    assert torch.allclose(made.solution, torch.linalg.solve(gram + 0.1 * torch.eye(N), y), atol=1e-7)

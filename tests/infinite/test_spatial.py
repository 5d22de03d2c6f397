"""Rules that mix positions against what PyTorch's own layers do to rank-one kernels."""

import pytest
import torch
import torch.nn.functional as F

from pluriform.infinite.features import input_kernel
from pluriform.infinite.linear import LayerVariances
from pluriform.infinite.spatial import Window, adaptive_matrix, convolution, flatten, pad, pooling, pooling_matrix

PLAIN = LayerVariances.of(1.0, 0.0, fan_in=1, has_bias=False, parameterization="ntk")


def images(seed, size=(7, 6)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 1, *size, generator=generator, dtype=torch.float64)


def record(layout="full", same=False):
    x1, x2 = images(0), images(0) if same else images(1)
    return x1, x2, input_kernel(x1, x2, same=same, ntk=True, layout=layout)


def outer(a, b):
    """(n1, F, P) and (n2, F, Q) features: mean over F of products, (n1, n2, P, Q)."""
    return torch.einsum("ifp,jfq->ijpq", a, b) / a.shape[1]


@pytest.mark.parametrize("layout", ["full", "diagonal"])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(("stride", "dilation", "padding"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 1, 0)])
def test_convolution_is_the_gram_matrix_of_unfolded_patches(layout, mode, stride, dilation, padding):
    x1, x2, kernel = record(layout)
    window = Window(3, stride, dilation, (padding, padding), mode)
    result = convolution(kernel, (window, window), PLAIN)
    padded = [F.pad(x, (padding,) * 4, mode={"zeros": "constant"}.get(mode, mode)) for x in (x1, x2)]
    patches = [F.unfold(x, 3, dilation=dilation, stride=stride) for x in padded]
    expected = outer(*patches)
    own = torch.einsum("ifp,ifq->ipq", patches[0], patches[0]) / 9
    count = expected.shape[-1]
    if layout == "diagonal":
        expected, own = expected.diagonal(dim1=2, dim2=3), own.diagonal(dim1=1, dim2=2)
        assert torch.allclose(result.nngp.reshape(3, 3, count), expected)
        assert torch.allclose(result.variance1.reshape(3, count), own)
    else:
        assert torch.allclose(result.nngp.reshape(3, 3, count, count), expected)
        assert torch.allclose(result.variance1.reshape(3, count, count), own)
    assert torch.allclose(result.ntk, result.nngp)
    assert result.gaussian
    assert result.zero_mean


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)])
def test_average_pooling_is_that_of_torch(ceil, counted, size, stride, padding):
    x1, x2, kernel = record()
    matrices = [
        pooling_matrix(n, Window(size, stride, 1, (padding, padding)), ceil=ceil, count_padding=counted) for n in (7, 6)
    ]
    pooled = [F.avg_pool2d(x, size, stride, padding, ceil, counted) for x in (x1, x2)]
    expected = outer(*(p.flatten(2) for p in pooled))
    result = pooling(kernel, tuple(matrices))
    assert torch.allclose(result.nngp.flatten(2), expected.flatten(2))
    assert result.spatial == tuple(pooled[0].shape[2:])
    assert result.ntk is not None
    assert torch.count_nonzero(result.ntk) == 0


@pytest.mark.parametrize("out", [1, 3, 5, 7])
def test_adaptive_pooling_is_that_of_torch(out):
    x = images(2)
    matrix = adaptive_matrix(7, out)
    assert torch.allclose(matrix @ x[0, 0], F.adaptive_avg_pool2d(x, (out, 6))[0, 0])


def test_flatten_is_the_mean_of_equal_positions_in_both_layouts():
    x1, x2, kernel = record()
    expected = x1.flatten(1) @ x2.flatten(1).T / 42
    assert torch.allclose(flatten(kernel).nngp, expected)
    assert torch.allclose(flatten(record("diagonal")[2]).nngp, expected)


def test_padding_then_convolution_is_a_padded_convolution():
    kernel = record()[2]
    inside = Window(3, 1, 1, (0, 2))
    expected = convolution(kernel, (inside, inside), PLAIN)
    bare = Window(3)
    result = convolution(pad(kernel, ((0, 2), (0, 2)), "zeros"), (bare, bare), PLAIN)
    assert torch.equal(result.nngp, expected.nngp)
    assert torch.equal(result.variance2, expected.variance2)


def test_circular_convolution_commutes_with_rolling():
    x1, x2, kernel = record()
    window = Window(3, 1, 1, (1, 1), "circular")
    rolled = input_kernel(x1.roll(2, -1), x2.roll(2, -1), same=False, ntk=False)
    before = convolution(kernel, (window, window), PLAIN).nngp
    after = convolution(rolled, (window, window), PLAIN).nngp
    assert torch.allclose(before.roll((2, 2), (3, 5)), after)

"""Every linear map of positions, seen through a pointwise layer: the kernel is the Gram matrix of what torch gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pluriform.errors import UnsupportedOpError
from pluriform.infinite.kernel_function import kernel_of


class Mapped(nn.Module):
    """A pointwise layer without bias, a map of positions, and a linear readout of all that is left."""

    def __init__(self, change, channels, example, last=False):
        super().__init__()
        self.change = change
        self.stem = (
            nn.Linear(channels, channels, bias=False)
            if last
            else CONV[example.ndim - 2](channels, channels, 1, bias=False)
        )
        self.head = nn.Linear(change(example).flatten(1).shape[1], 1, bias=False)

    def forward(self, x):
        return self.head(self.change(self.stem(x)).flatten(1))


CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def example(*shape):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


IMAGES = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest to a size": lambda x: F.interpolate(x, size=(7, 3)),
    "exact nearest": lambda x: F.interpolate(x, size=(7, 3), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear corners": lambda x: F.interpolate(x, size=(9, 2), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "area": lambda x: F.interpolate(x, size=(3, 2), mode="area"),
    "slice": lambda x: x[:, :, ::2, 1:],
    "one row": lambda x: x[:, :, -1],
    "one column": lambda x: x[..., 2],
    "corner": lambda x: x[:, :, 0, 0],
    "new axis": lambda x: x[:, :, 1:, None, ::2].squeeze(3),
    "narrow": lambda x: x.narrow(2, 1, 3),
    "select": lambda x: x.select(-1, 2),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "roll one axis": lambda x: x.roll(2, -1),
    "chunk": lambda x: x.chunk(2, 3)[1],
    "unbound": lambda x: x.unbind(2)[3],
    "token chunk": lambda x: x.flatten(2).transpose(1, 2).split([4, 6, 20], 1)[1],
    "flat": lambda x: x.flatten(2),
    "unflat": lambda x: x.flatten(2).unflatten(2, (3, 10)),
    "turned": lambda x: x.transpose(2, 3)[:, :, 1:],
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "mean of tokens": lambda x: x.flatten(2).transpose(1, 2).mean(1),
    "sum of rows last": lambda x: x.permute(0, 2, 3, 1).sum(1),
    "first token": lambda x: x.flatten(2).permute(0, 2, 1)[:, 0],
    "some tokens": lambda x: x.flatten(2).permute(0, 2, 1)[:, 3:20:2],
    "padded last": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 2, 1, 1, 0)),
    "reflected": lambda x: F.pad(x, (2, 1, 1, 1), mode="reflect"),
    "channels with rows": lambda x: x.flatten(1, 2),
    "columns with channels": lambda x: x.permute(0, 2, 3, 1).flatten(2),
    "overlapping pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "sum pool": lambda x: F.avg_pool2d(x, 3, 2, divisor_override=1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
}
LENGTHS = {
    "linear": lambda x: F.interpolate(x, scale_factor=1.5, mode="linear"),
    "mean": lambda x: x.mean(-1),
    "pool": lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
    "slice": lambda x: x[..., ::3],
}
VOLUMES = {
    "trilinear": lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"),
    "pool": lambda x: F.avg_pool3d(x, 2),
    "partly flat": lambda x: x.flatten(3),
    "two axes with channels": lambda x: x.flatten(1, 3),
    "slice": lambda x: x[:, :, 0, 1:],
}
CASES = [
    *((f"image, {name}", change, (2, 5, 6)) for name, change in IMAGES.items()),
    *((f"sequence, {name}", change, (2, 8)) for name, change in LENGTHS.items()),
    *((f"volume, {name}", change, (2, 3, 4, 3)) for name, change in VOLUMES.items()),
]


@pytest.mark.parametrize(("change", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_kernel_is_the_gram_matrix_of_mapped_features(change, shape):
    x = example(*shape)
    kernel = kernel_of(Mapped(change, 2, x), x, weight_var=1.0)(x)
    features = change(x).flatten(1)
    expected = features @ features.T / features.shape[1]
    assert torch.allclose(kernel.nngp, expected)
    assert torch.allclose(kernel.ntk, 2 * expected)
    assert torch.allclose(kernel.variance1, expected.diagonal())


@pytest.mark.parametrize("name", ["slice", "roll", "tokens", "unflat", "turned", "nearest", "channels with rows"])
def test_maps_keep_all_pairs_of_positions_where_a_pool_follows(name):
    x = example(2, 5, 6)

    def change(x):
        mapped = IMAGES[name](x)
        return mapped.mean(1) if name == "tokens" else mapped.mean(tuple(range(2, mapped.ndim)))

    kernel = kernel_of(Mapped(change, 2, x), x, weight_var=1.0)(x)
    features = change(x)
    assert torch.allclose(kernel.nngp, features @ features.T / features.shape[1])


@pytest.mark.parametrize(
    ("stride", "padding", "extra", "dilation", "groups"),
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 0, 2, 1, 1), (2, 3, 0, 2, 1), (2, 0, 0, 1, 2)],
)
def test_transposed_convolution_is_the_gram_matrix_of_its_patches(stride, padding, extra, dilation, groups):
    """One output channel for every offset of the window, each with a single weight of 1."""
    x = example(2, 5, 4)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False),
        nn.ConvTranspose2d(4, 4, 3, stride, padding, extra, groups, False, dilation),
        nn.Flatten(),
        nn.Linear(1, 1, bias=False),
    )
    with torch.no_grad():
        net[3] = nn.Linear(net[:3].double()(x).shape[1], 1, bias=False)
    kernel = kernel_of(net, x, weight_var=1.0)(x)
    weight = torch.eye(9, dtype=torch.float64).reshape(1, 9, 3, 3).repeat(2, 1, 1, 1)
    weight = torch.block_diag(*(weight[c].reshape(1, 81) for c in range(2))).reshape(2, 18, 3, 3)
    features = F.conv_transpose2d(x, weight, None, stride, padding, extra, 1, dilation).flatten(1)
    count = features.shape[1] // 18
    expected = features @ features.T / (2 * 9 * count)
    assert torch.allclose(kernel.nngp, expected)
    assert torch.allclose(kernel.ntk, 3 * expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, 0], "slicing of samples or channels"),
        (lambda x: x[:, :, [0, 2]], "slices and whole numbers"),
        (lambda x: torch.roll(x, 1, 1), "a roll of positions"),
        (lambda x: x.sum(1), "a mean or sum over positions"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), "padding of positions"),
        (lambda x: F.pad(x, (1, 1), value=2.0), "padding with zeros"),
        (lambda x: x.reshape(len(x), 3, 20), "a reshape that keeps samples"),
        (lambda x: F.lp_pool2d(x, 2, 2), "lp_pool"),
        (lambda x: torch.relu(x).flatten(1).view(-1, 2, 5, 6), "a reshape of Gaussian units"),
    ],
)
def test_maps_of_channels_and_samples_are_refused(change, words):
    x = example(2, 5, 6)
    with pytest.raises(UnsupportedOpError, match=words):
        kernel_of(Mapped(change, 2, x), x)

import pytest
import torch

from pluriform.translate.resnet_generator import ResidualBlock, ResNetGenerator, recommended_blocks


def test_parameters_of_the_published_network():
    with torch.device("meta"):
        assert sum(p.numel() for p in ResNetGenerator(3, 3).parameters()) == 11_378_179
    assert [recommended_blocks(side, 300) for side in (128, 256)] == [6, 9]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 50)])
def test_output_has_the_size_of_the_input(height, width):
    y = ResNetGenerator(1, 4, blocks=2, width=2)(torch.randn(2, 1, height, width))
    assert y.shape == (2, 4, height, width)
    assert y.abs().max() <= 1


def test_residual_block_against_the_definition():
    block = ResidualBlock(3).double()
    x = torch.randn(2, 3, 6, 5, dtype=torch.double)

    def convolved(conv, x):
        rows, columns = [1, *range(6), 4], [1, *range(5), 3]  # Reflection by index.
        y = torch.nn.functional.conv2d(x[:, :, rows][..., columns], conv.weight, conv.bias)
        return (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()

    torch.testing.assert_close(block(x), x + convolved(block.layers[5], convolved(block.layers[1], x).relu()))

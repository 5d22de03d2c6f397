import torch

from pluriform.translate.structure import structure_loss


def test_structure_ignores_colour_and_light_and_sees_shape():
    content = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turned = content[:, [2, 0, 1]]  # Another colour, the same luminance.
    assert structure_loss(content, content) == 0
    for same in (turned, content + 0.5, -content):
        assert structure_loss(same, content) < 1e-6
    assert structure_loss(content.flip(-1), content) > 0.1
    assert structure_loss(torch.zeros_like(content), content) > 0.1


def test_structure_by_hand():
    output, content = torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16)
    content[..., 8:] = 1  # One edge, light on the right.
    wanted = (1 / 15 + 1 / 7) / 2  # One of 15 columns of horizontal differences, one of 7 between squares of 2 pixels.
    torch.testing.assert_close(structure_loss(output, content), torch.tensor(wanted))
    output.requires_grad_(True)
    structure_loss(output, content + torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))).backward()
    assert torch.isfinite(output.grad).all()


def test_structure_of_few_pixels():
    lines = torch.arange(6.0).reshape(1, 1, 1, 6)
    torch.testing.assert_close(structure_loss(0 * lines, lines), torch.tensor(2.0))  # Squares of one pixel: both alike.
    assert structure_loss(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)) == 0

import torch

from pluriform.translate.structure import structure_loss


def test_structure_ignores_colour_and_sees_shape():
    content = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    turned = content[:, [2, 0, 1]]  # Another colour, the same luminance.
    assert structure_loss(content, content) == 0
    assert structure_loss(turned, content) < 1e-6
    assert structure_loss(content.flip(-1), content) > 0.1
    assert structure_loss(torch.zeros_like(content), content) > 0.1


def test_structure_by_hand():
    output, content = torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16)
    content[..., 8:] = 1  # One edge, light on the right.
    wanted = 0.5 + (1 / 15) / 2  # Half the squares differ by 1; one of 15 columns of horizontal differences.
    torch.testing.assert_close(structure_loss(output, content), torch.tensor(wanted))
    output.requires_grad_(True)
    structure_loss(output, content).backward()
    assert output.grad.abs().sum() > 0

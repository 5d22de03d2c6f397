"""ResNets built from shapes have the published sizes and compute what networks written out compute."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.forms import load_form, save_form
from pluriform.graph.trace import trace
from pluriform.robust.torchvision_resnet import resnet_of

sys.path.insert(0, str(Path(__file__).parent))
from published import SmallResNet, drawn


def shapes_of(blocks, *, bottleneck, base=64, groups=1):
    """Shapes of the convolutions and the head as the papers give them, for 1,000 classes."""
    shapes, before, grown = {"conv1.weight": (64, 3, 7, 7)}, 64, 4 if bottleneck else 1
    for stage, count in enumerate(blocks):
        planes = 64 * 2**stage
        width = planes * base // 64 * groups
        for block in range(count):
            at = f"layer{stage + 1}.{block}."
            if bottleneck:
                shapes[at + "conv1.weight"] = (width, before, 1, 1)
                shapes[at + "conv2.weight"] = (width, width // groups, 3, 3)
                shapes[at + "conv3.weight"] = (4 * planes, width, 1, 1)
            else:
                shapes[at + "conv1.weight"] = (planes, before, 3, 3)
                shapes[at + "conv2.weight"] = (planes, planes, 3, 3)
            if before != grown * planes or (stage and not block):
                shapes[at + "downsample.0.weight"] = (grown * planes, before, 1, 1)
            before = grown * planes
    return shapes | {"fc.weight": (1000, before), "fc.bias": (1000,)}


@pytest.mark.parametrize(
    ("blocks", "options", "parameters"),
    [
        ((2, 2, 2, 2), {"bottleneck": False}, 11_689_512),
        ((3, 4, 6, 3), {"bottleneck": True}, 25_557_032),
        ((3, 4, 6, 3), {"bottleneck": True, "base": 128}, 68_883_240),
        ((3, 4, 6, 3), {"bottleneck": True, "base": 4, "groups": 32}, 25_028_904),
    ],
    ids=["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d"],
)
def test_the_published_networks_have_the_published_sizes(blocks, options, parameters):
    network = resnet_of(shapes_of(blocks, **options))
    assert network is not None
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert all(p.is_meta for p in network.parameters())
    assert network(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)
    strides = [m.stride for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and n.endswith("2.0.conv2")]
    assert strides == [(2, 2) if options["bottleneck"] else (1, 1)]


def bottleneck_by_hand(w, x):
    """Two blocks with three convolutions of four groups, the second of stride 2, functions only."""

    def norm(x, at):
        return F.batch_norm(x, w[at + ".running_mean"], w[at + ".running_var"], w[at + ".weight"], w[at + ".bias"])

    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], None, 1, 1), "bn1"))
    for at, stride in (("layer1.0", 1), ("layer2.0", 2)):
        y = F.relu(norm(F.conv2d(x, w[at + ".conv1.weight"]), at + ".bn1"))
        y = F.relu(norm(F.conv2d(y, w[at + ".conv2.weight"], None, stride, 1, 1, 4), at + ".bn2"))
        y = norm(F.conv2d(y, w[at + ".conv3.weight"]), at + ".bn3")
        x = F.relu(y + norm(F.conv2d(x, w[at + ".shortcut.0.weight"], None, stride), at + ".shortcut.1"))
    return F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])


SMALL_IMAGES = {
    "conv1.weight": (6, 3, 3, 3),
    "layer1.0.conv1.weight": (8, 6, 1, 1),
    "layer1.0.conv2.weight": (8, 2, 3, 3),
    "layer1.0.conv3.weight": (10, 8, 1, 1),
    "layer1.0.shortcut.0.weight": (10, 6, 1, 1),
    "layer2.0.conv1.weight": (12, 10, 1, 1),
    "layer2.0.conv2.weight": (12, 3, 3, 3),
    "layer2.0.conv3.weight": (14, 12, 1, 1),
    "layer2.0.shortcut.0.weight": (14, 10, 1, 1),
    "linear.weight": (5, 14),
    "linear.bias": (5,),
}


def test_the_network_for_small_images_computes_what_its_equations_say(tmp_path):
    network = resnet_of(SMALL_IMAGES)
    assert network is not None
    weights = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    drawn(network)
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), bottleneck_by_hand(network.state_dict(), x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trace(network, x).module(x), network(x))
    again = load_form(save_form(network, tmp_path / "form"))
    assert torch.equal(again(x), network(x))


def test_other_networks_are_left_alone():
    shapes = {name: tuple(t.shape) for name, t in SmallResNet().state_dict().items()}
    assert resnet_of(shapes) is not None
    for fault in ("conv1.weight", "fc.weight", "layer1.0.conv2.weight"):
        assert resnet_of({name: shape for name, shape in shapes.items() if name != fault}) is None
        assert resnet_of(shapes | {fault: (3,)}) is None
    assert resnet_of(shapes | {"layer1.0.conv2.weight": (4, 0, 3, 3)}) is None
    assert resnet_of({}) is None

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.signature import Signature
from pluriform.errors import ConfigError, GraphError, ShapeError
from pluriform.robust.model import RobustModel
from pluriform.robust.pyramid import Pyramid
from pluriform.robust.transferred import Transferred

FACTS = Signature("pictures", "classification", (3, 32, 32), 10, tuple("0123456789"), (0.0, 1.0))
X = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def listened(net: nn.Module, names: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the last call of submodules, by hooks."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.__setitem__(name, out.clone())
        )
        for name in names
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def vgg() -> nn.Module:
    torch.manual_seed(0)

    def conv(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]

    layers = [*conv(3, 8), *conv(8, 8), nn.MaxPool2d(2), *conv(8, 16), nn.MaxPool2d(2), *conv(16, 24), nn.MaxPool2d(4)]
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(24 * 4, 10))


class Bottlenecks(nn.Module):
    """The second block narrows at the old resolution before its stride, as in ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce, self.middle, self.widen = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 16, 1)
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).relu()
        y = (self.widen(self.middle(self.reduce(y).relu()).relu()) + self.shortcut(y)).relu()
        return self.head(y.mean((2, 3)))


def test_a_residual_network_gives_the_ends_of_its_stages():
    net = pf.nets.build("resnet20", FACTS).eval()
    pyramid = Pyramid(net, example=X)
    maps = pyramid(X)
    assert {stride: tuple(found.shape) for stride, found in maps.items()} == {
        1: (2, 16, 32, 32), 2: (2, 32, 16, 16), 4: (2, 64, 8, 8)
    }  # fmt: skip
    assert pyramid.strides == (1, 2, 4)
    assert pyramid.channels == {1: 16, 2: 32, 4: 64}
    for found, expected in zip(maps.values(), listened(net, ["blocks.2", "blocks.5", "blocks.8"], X), strict=True):
        assert torch.equal(found, expected)


def test_a_chain_gives_what_its_pools_read_also_with_operations_in_place():
    net = vgg().eval()
    maps = Pyramid(net, example=X)(X)
    assert [tuple(found.shape[1:]) for found in maps.values()] == [(8, 32, 32), (16, 16, 16), (24, 8, 8), (24, 2, 2)]
    assert list(maps) == [1, 2, 4, 16]
    for found, expected in zip(maps.values(), listened(net, ["0.5", "0.9", "0.13", "0.14"], X), strict=True):
        assert torch.equal(found, expected)


def test_maps_inside_a_block_are_no_levels():
    net = Bottlenecks()
    pyramid = Pyramid(net, example=X)
    assert pyramid.channels == {1: 8, 2: 16}
    assert torch.equal(pyramid(X)[1], net.stem(X).relu())


def test_levels_are_chosen_and_the_rest_is_not_computed():
    net = pf.nets.build("resnet8", FACTS).eval()
    pyramid = Pyramid(net, (2,), X)
    assert list(pyramid(X)) == [2]
    calls = []
    net.blocks[2].conv1.register_forward_hook(lambda *_: calls.append(1))
    pyramid(X)
    assert not calls
    with pytest.raises(ConfigError, match=r"strides among 1 \(16x32x32\), 2 \(32x16x16\), 4 \(64x8x8\); got \[8\]"):
        Pyramid(net, (4, 8), X)
    with pytest.raises(ConfigError, match="got none"):
        Pyramid(net, (), X)


def test_gradients_reach_weights_and_inputs():
    net = pf.nets.build("resnet8", FACTS).eval()
    pyramid = Pyramid(net, example=X)
    x = X.clone().requires_grad_(True)
    sum(found.square().sum() for found in pyramid(x).values()).backward()
    assert x.grad is not None
    assert (x.grad != 0).any()
    weights = dict(net.named_parameters())
    assert all((weights[name].grad is None) == name.startswith("classifier") for name in weights)
    expected = torch.autograd.grad(
        sum(found.square().sum() for found in listened(net, ["blocks.0", "blocks.1", "blocks.2"], X)),
        net.stem[0].weight,
    )[0]
    assert torch.allclose(net.stem[0].weight.grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_mode_is_that_of_the_network():
    net = pf.nets.build("resnet8", FACTS).train()
    pyramid = Pyramid(net, example=X)
    assert all(part.training for part in net.modules())
    pyramid.eval()
    assert not net.stem[1].training
    assert torch.equal(pyramid(X)[1], listened(net.eval(), ["blocks.0"], X)[0])


def test_a_form_knows_its_shape_and_survives_saving(tmp_path):
    form = Transferred(pf.nets.build("resnet8", FACTS), FACTS, "classifier", []).eval()
    pyramid = Pyramid(form)
    assert pyramid.strides == (1, 2, 4)
    assert list(form.features((2, 4))(X)) == [2, 4]
    robust = RobustModel(form.module, FACTS, pf.Threat("linf", 0.1)).eval()
    assert torch.equal(robust.features((2,))(X)[2], pyramid(X)[2])
    pf.forms.save_form(pyramid, tmp_path / "pyramid")
    again = pf.load_form(tmp_path / "pyramid")
    assert all(torch.equal(one, other) for one, other in zip(pyramid(X).values(), again(X).values(), strict=True))


class Segmenter(nn.Module):
    """Classes of every pixel: a 1x1 convolution of each map, brought to the finest, summed, brought to the inputs."""

    def __init__(self, pyramid: Pyramid, classes: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.levels = nn.ModuleDict({str(s): nn.Conv2d(c, classes, 1) for s, c in pyramid.channels.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.pyramid(x)
        found = [self.levels[str(stride)](maps[stride]) for stride in self.pyramid.strides]
        total = torch.stack([F.interpolate(part, found[0].shape[2:], mode="bilinear") for part in found]).sum(0)
        return F.interpolate(total, x.shape[2:], mode="bilinear")


def scenes(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """8 photographs and label maps of three classes: sky, a wall, and windows in rows at random places."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.zeros(8, size, size, dtype=torch.int64)
    for scene in labels:
        roof, left, step = (
            int(torch.randint(low, high, (), generator=draw)) for low, high in ((8, 20), (4, 9), (9, 13))
        )
        scene[roof:] = 1
        for row in range(roof + 4, size - 5, step):
            for column in range(left, size - 5, step):
                scene[row : row + 5, column : column + 5] = 2
    colours = torch.tensor([[0.55, 0.7, 0.9], [0.7, 0.5, 0.4], [0.2, 0.25, 0.3]])[labels].permute(0, 3, 1, 2)
    return (colours + 0.1 * torch.randn(colours.shape, generator=draw)).clamp(0, 1), labels


def strided() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 4, 2, 1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4 * 4, 10))


@pytest.mark.parametrize(("frozen", "rate", "steps"), [(True, 0.1, 80), (False, 0.01, 40)])
def test_a_pyramid_feeds_a_segmentation_head_at_another_size_than_the_classifier_reads(frozen, rate, steps):
    net = strided()
    form = RobustModel(net, FACTS, pf.Threat("l2", 0.1)).eval()
    segmenter = Segmenter(form.features().requires_grad_(not frozen), 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    photos, labels = scenes(64)  # The classifier's own linear layer takes 32 x 32 alone.
    with pytest.raises(RuntimeError):
        net(photos)
    optimizer = torch.optim.Adam([weight for weight in segmenter.parameters() if weight.requires_grad], rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(segmenter(photos), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    logits = segmenter(photos)
    assert logits.shape == (8, 3, 64, 64)
    shares = labels.flatten().bincount() / labels.numel()
    assert losses[-1] < 0.6 * float(-(shares * shares.log()).sum())  # What constant shares of the classes cost.
    assert float((logits.argmax(1) == labels).float().mean()) > 0.8
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == (set() if frozen else {f"{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")})


def test_what_gives_no_maps_is_refused():
    net = pf.nets.build("resnet8", FACTS)
    with pytest.raises(ConfigError, match=r"an example; got none.*images\[:2\]"):
        Pyramid(net)
    with pytest.raises(ShapeError, match=r"\(batch, channels, height, width\); got \(3, 32, 32\)"):
        Pyramid(net, example=X[0])
    with pytest.raises(GraphError, match="feature maps.*pluriform.graph.features"):
        Pyramid(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), example=X)

import torch
from torch import nn

from pluriform.graph.trace import trace
from pluriform.search.architecture import Skip, architecture


class Residual(nn.Module):
    """x + conv(relu(x)), submodules under given names."""

    def __init__(self, first: str, second: str, swapped: bool = False) -> None:
        super().__init__()
        self.add_module(first, nn.Conv2d(3, 4, 3, padding=1))
        self.add_module(second, nn.Conv2d(4, 4, 3, padding=1))
        self.names, self.swapped = (first, second), swapped

    def forward(self, x):
        y = getattr(self, self.names[0])(x)
        z = getattr(self, self.names[1])(torch.relu(y))
        return z + y if self.swapped else y + z


def of(module, *shape):
    return architecture(trace(module, torch.zeros(2, *shape)))


def test_names_and_order_of_summands_do_not_matter():
    one, two = of(Residual("a", "b"), 3, 5, 5), of(Residual("z", "c", swapped=True), 3, 5, 5)
    assert one == two
    assert one.key == two.key


def test_a_residual_branch_is_three_layers_and_a_skip():
    made = of(Residual("a", "b"), 3, 5, 5)
    assert [layer.kind for layer in made.layers] == ["conv2d", "relu", "conv2d"]
    assert made.skips == (Skip(1, 4, "add"),)
    assert made.layers[0]["width"] == 4
    assert made.layers[0]["kernel_size"] == (3, 3)


def test_every_attribute_changes_the_key():
    nets = [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, (3, 1)),
        nn.MaxPool2d(2),
        nn.MaxPool2d(2, 1),
        nn.AvgPool2d(2),
        nn.Dropout(0.1),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.GELU(),
        nn.LeakyReLU(0.1),
        nn.LeakyReLU(0.2),
        nn.BatchNorm2d(4),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.GroupNorm(4, 4),
        nn.Sequential(nn.ReLU(), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(2),
    ]
    keys = [of(net, 4, 9, 9).key for net in nets]
    assert len(set(keys)) == len(keys)
    assert keys == [of(net, 4, 9, 9).key for net in nets]


def test_the_mode_is_not_part_of_the_architecture():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    assert of(net.train(), 4) == of(net.eval(), 4)


def test_identity_is_nothing():
    assert of(nn.Sequential(nn.Linear(4, 4), nn.Identity()), 4) == of(nn.Linear(4, 4), 4)


def test_a_skip_that_starts_before_a_join_differs_from_one_behind_it():
    class Net(nn.Module):
        def __init__(self, before: bool) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.before = before

        def forward(self, x):
            y = self.one(x)
            z = self.two(y)
            w = z + y
            return self.three(w) + (z if self.before else w)

    assert of(Net(True), 4) != of(Net(False), 4)


def test_layers_that_share_weights_differ_from_layers_of_their_own():
    shared = nn.Linear(4, 4)
    assert of(nn.Sequential(shared, nn.ReLU(), shared), 4) != of(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), 4
    )
    relu = nn.ReLU()
    assert of(nn.Sequential(relu, nn.Linear(4, 4), relu), 4) == of(
        nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.ReLU()), 4
    )


def test_functions_and_modules_are_one_architecture():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.layer(x))

    assert of(Functional(), 4) == of(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), 4)


def test_several_outputs_and_inputs_are_told():
    class Two(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.layer, self.other, self.both = nn.Linear(4, 4), nn.Linear(4, 4), both

        def forward(self, x):
            y = self.layer(x)
            z = self.other(y)
            return (y, z) if self.both else z

    assert of(Two(True), 4) != of(Two(False), 4)

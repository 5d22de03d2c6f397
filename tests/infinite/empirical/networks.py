"""Networks that between them use every kind of layer with parameters."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Two blocks with BatchNorm and a strided shortcut, in-place ReLU."""

    def __init__(self, outputs=3):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(6)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, outputs)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.norm2(self.conv(x)) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """One layer called twice, one weight used by two layers, and a scale of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.twice = nn.Linear(4, 4)
        self.mirror = nn.Linear(5, 4, bias=False)
        self.mirror.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.3]))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x)) + torch.sin(self.mirror(x))
        return self.head(torch.tanh(self.twice(self.twice(h))) * self.scale)


class Functional(nn.Module):
    """Layers written as functions of parameters."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(3, 2, 2, 2) / 3)
        self.shift = nn.Parameter(torch.randn(3))
        self.weight = nn.Parameter(torch.randn(2, 3 * 4) / 3)

    def forward(self, x):
        h = F.gelu(F.conv2d(x, self.filters, self.shift, stride=2, padding=1, dilation=2))
        return F.linear(weight=self.weight, input=h.flatten(1))


class Tokens(nn.Module):
    """Linear layers on a sequence, LayerNorm, mixing over tokens, RMSNorm, PReLU."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(5, 5)
        self.slope = nn.PReLU(4)
        self.last = nn.RMSNorm(4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        h = self.norm(self.embed(x))
        h = h + self.mix(h.transpose(1, 2)).transpose(1, 2)
        h = self.slope(h.transpose(1, 2)).transpose(1, 2)
        return self.head(self.last(h).mean(1))


def _stirred(net):
    """Parameters and statistics away from their special initial values."""
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor += 0.3 * torch.rand_like(tensor) if "var" in name else 0.3 * torch.randn_like(tensor)
    return net.double().eval()


def _frozen():
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net


class Cube(nn.Module):
    def forward(self, weight):
        return weight**3


def _parametrized():
    layer = nn.Linear(5, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", Cube(), unsafe=True)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2))


BUILDERS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (5,)),
    "linear": (lambda: nn.Linear(4, 2), (4,)),
    "frozen": (_frozen, (5,)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 3, stride=2), nn.Flatten(), nn.Linear(12, 3)
        ),
        (2, 6, 6),
    ),
    "conv-circular": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2)
        ),
        (2, 4, 4),
    ),
    "conv-same": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, (2, 4), padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)),
        (1, 4, 4),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=1),
            nn.GroupNorm(3, 6),
            nn.Tanh(),
            nn.Conv2d(6, 6, 2, groups=6),
            nn.Flatten(),
            nn.Linear(54, 2),
        ),
        (4, 6, 6),
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ELU(), nn.Flatten(), nn.Linear(24, 2)),
        (2, 8),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)), (1, 3, 3, 3)),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(216, 2),
        ),
        (4, 3, 3),
    ),
    "residual": (Residual, (2, 6, 6)),
    "tied": (Tied, (5,)),
    "functional": (Functional, (2, 4, 4)),
    "tokens": (Tokens, (5, 3)),
    "parametrized": (_parametrized, (5,)),
}


def build(name, *, seed=0):
    """A network of the list in float64, and two batches of inputs."""
    make, shape = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _stirred(make())
        return net, torch.randn(4, *shape).double(), torch.randn(3, *shape).double()

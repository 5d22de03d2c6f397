"""Random networks: layers, norms, activations, joins and endings drawn from a seed."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "relu": nn.ReLU,
    "inplace": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
}


class RandomNet(nn.Module):
    """Steps on a list of tensors; the family and all sizes follow from the seed."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.family = self.pick(["image", "image", "image", "signal", "table", "tokens"])
        self.shape = {"image": (2, 6, 6), "signal": (2, 9), "table": (5,), "tokens": (4, 6)}[self.family]
        self.steps, self.layers = [], nn.ModuleList()
        getattr(self, f"build_{self.family}")()
        del self.rng

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def layer(self, module):
        self.layers.append(module)
        return len(self.layers) - 1

    def activation(self):
        return self.layer(ACTIVATIONS[self.pick([*ACTIVATIONS])]())

    def build_image(self):
        self.build_conv(2)

    def build_signal(self):
        self.build_conv(1)

    def build_conv(self, dims):
        conv, pool = (nn.Conv1d, nn.Conv2d)[dims - 1], (nn.AvgPool1d, nn.MaxPool2d)[dims - 1]
        batch, instance = (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1], (nn.InstanceNorm1d, nn.InstanceNorm2d)[dims - 1]
        width, length = 2, self.shape[-1]
        for _ in range(self.rng.integers(2, 5)):
            out = int(self.pick([4, 6, 8]))
            groups = self.pick([1, 1, 1, 2, width])
            groups = groups if width % groups == 0 and out % groups == 0 else 1
            kernel, spread = int(self.pick([1, 2, 3])), int(self.pick([1, 1, 2]))
            mode = self.pick(["zeros", "zeros", "circular", "replicate"])
            same = kernel % 2 == 1 and self.rng.random() < 0.2
            padding = "same" if same else spread * (kernel - 1) // 2
            if not same and length + 2 * padding <= spread * (kernel - 1):
                kernel, padding = 1, 0
            bias = bool(self.rng.random() < 0.7)
            made = conv(
                width, out, kernel, padding=padding, dilation=spread, groups=groups, padding_mode=mode, bias=bias
            )
            longer = length + 2 * (0 if same else padding) - spread * (kernel - 1) if not same else length
            residual = longer == length and out == width and self.rng.random() < 0.6
            concat = longer == length and not residual and self.rng.random() < 0.4
            self.steps.append(("keep", None))
            self.steps.append(("call", self.layer(made)))
            norm = self.pick(["none", "batch", "batch", "group", "instance", "single"])
            norms = {
                "batch": lambda out=out: batch(out),
                "group": lambda out=out: nn.GroupNorm(2, out),
                "instance": lambda out=out: instance(out, affine=True, track_running_stats=True),
                "single": lambda out=out: nn.GroupNorm(1, out),
            }
            if norm != "none" and (norm != "instance" or longer > 1):
                self.steps.append(("call", self.layer(norms[norm]())))
            if self.rng.random() < 0.8:
                self.steps.append(("call", self.activation()))
            if residual:
                self.steps.append((self.pick(["add", "add", "iadd", "gate"]), None))
            if concat:
                self.steps.append(("concat", None))
            width, length = out + (width if concat else 0), longer
            if length >= 4 and self.rng.random() < 0.4:
                self.steps.append(("call", self.layer(pool(2))))
                length //= 2
            if self.rng.random() < 0.2:
                self.steps.append(("call", self.layer(nn.Dropout(0.0))))
        ending = self.pick(["flatten", "mean", "view", "written"])
        size = width * length**dims
        self.steps.append((ending, size))
        self.build_dense(width if ending == "mean" else size)

    def build_table(self):
        self.build_dense(5)

    def build_dense(self, width):
        for _ in range(self.rng.integers(0 if self.family != "table" else 1, 4)):
            out = int(self.pick([width if width <= 8 else 6, 4, 6]))
            residual = out == width and self.rng.random() < 0.7
            self.steps.append(("keep", None))
            self.steps.append(("call", self.layer(nn.Linear(width, out))))
            norm = self.pick(["none", "batch", "layer"])
            if norm != "none":
                self.steps.append(("call", self.layer(nn.BatchNorm1d(out) if norm == "batch" else nn.LayerNorm(out))))
            self.steps.append(("call", self.activation()))
            if residual:
                self.steps.append(("add", None))
            width = out
        self.steps.append(("call", self.layer(nn.Linear(width, 3))))

    def build_tokens(self):
        width = 6
        for _ in range(self.rng.integers(1, 3)):
            kind = self.pick(["attention", "feed", "mix"])
            norm = nn.LayerNorm(width) if self.rng.random() < 0.6 else nn.Identity()
            self.steps.append(("keep", None))
            self.steps.append(("call", self.layer(norm)))
            if kind == "attention":
                self.steps.append(("attend", (self.layer(nn.Linear(width, 3 * width)), int(self.pick([1, 2, 3])))))
            elif kind == "feed":
                self.steps.append(("call", self.layer(nn.Linear(width, 10))))
                self.steps.append(("call", self.activation()))
                self.steps.append(("call", self.layer(nn.Linear(10, width))))
            else:
                mixed = self.layer(nn.Conv1d(width, width, 3, padding=1, groups=int(self.pick([1, width]))))
                self.steps.append(("mix", mixed))
            self.steps.append(("add", None))
        self.steps.append(("average", None))
        self.build_dense(width)

    def forward(self, x):
        kept = []
        for kind, what in self.steps:
            if kind == "keep":
                kept.append(x)
            elif kind == "call":
                x = self.layers[what](x)
            elif kind == "add":
                x = x + kept.pop()
            elif kind == "iadd":
                x = x * 1.0
                x += kept.pop()
            elif kind == "gate":
                x = x * torch.sigmoid(kept.pop())
            elif kind == "concat":
                x = torch.cat([kept.pop(), x], 1)
            elif kind == "flatten":
                x = x.flatten(1)
            elif kind == "view":
                x = x.reshape(x.size(0), -1)
            elif kind == "written":
                x = x.view(-1, what)
            elif kind == "mean":
                x = x.mean(dim=tuple(range(2, x.dim())))
            elif kind == "average":
                x = x.mean(1)
            elif kind == "mix":
                x = self.layers[what](x.transpose(1, 2)).transpose(1, 2)
            elif kind == "attend":
                project, heads = what
                q, k, v = self.layers[project](x).chunk(3, dim=-1)
                b, t, c = q.shape
                q, k, v = (part.view(b, t, heads, c // heads).transpose(1, 2) for part in (q, k, v))
                x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        return x


def settled(net, inputs):
    """In double precision, with weights and running statistics as after some training."""
    net = net.double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "bias" in name or parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.double) * 0.2)
        net.train()
        for _ in range(2):
            net(inputs + 0.1)
    return net


@pytest.fixture(scope="session")
def random_net():
    """A random network in double precision, with inputs, by seed."""

    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = RandomNet(seed)
            inputs = torch.randn(4, *net.shape, dtype=torch.double)
        return settled(net, inputs), inputs

    return make


@pytest.fixture(scope="session")
def settle():
    """`settled`, for networks of a test."""
    return settled

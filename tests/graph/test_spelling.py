"""Every spelling of an operation becomes one `Op` with one set of attributes."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.graph.ops import Op
from pluriform.graph.trace import trace

torch.set_num_threads(1)
IMAGE, ROW, LINE = (2, 4, 6, 6), (2, 4), (2, 4, 6)


class Spelled(nn.Module):
    """One operation written as a function of the input and of some weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.ones(5, 4, 3, 3))
        self.depthwise = nn.Parameter(torch.ones(4, 1, 3, 3))
        self.transposed = nn.Parameter(torch.ones(4, 5, 3, 3))
        self.line = nn.Parameter(torch.ones(5, 4, 3))
        self.matrix = nn.Parameter(torch.ones(5, 4))
        self.vector = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return self.function(self, x)


def read(spelling, shape):
    module = nn.Sequential(spelling) if isinstance(spelling, nn.Module) else Spelled(spelling)
    graph = trace(module.eval(), torch.ones(shape))
    node = graph[graph.output.inputs[0]]
    return node.op, dict(node.attributes)


# name: expected op, expected attributes among others, input shape, spellings
TABLE = {
    "relu": (Op.ACTIVATION, {"function": "relu"}, ROW, [
        nn.ReLU(), nn.ReLU(inplace=True), lambda s, x: F.relu(x), lambda s, x: F.relu(x, inplace=True),
        lambda s, x: x.relu(), lambda s, x: x.relu_(), lambda s, x: torch.relu(x), lambda s, x: torch.relu_(x),
        lambda s, x: nn.ReLU()(x)]),
    "leaky_relu": (Op.ACTIVATION, {"function": "leaky_relu", "negative_slope": 0.2}, ROW, [
        nn.LeakyReLU(0.2), lambda s, x: F.leaky_relu(x, 0.2), lambda s, x: F.leaky_relu(x, negative_slope=0.2)]),
    "leaky_relu default": (Op.ACTIVATION, {"function": "leaky_relu", "negative_slope": 0.01}, ROW, [
        nn.LeakyReLU(), lambda s, x: F.leaky_relu(x)]),
    "gelu": (Op.ACTIVATION, {"function": "gelu", "approximate": "none"}, ROW, [nn.GELU(), lambda s, x: F.gelu(x)]),
    "gelu tanh": (Op.ACTIVATION, {"function": "gelu", "approximate": "tanh"}, ROW, [
        nn.GELU("tanh"), lambda s, x: F.gelu(x, approximate="tanh")]),
    "tanh": (Op.ACTIVATION, {"function": "tanh"}, ROW, [
        nn.Tanh(), nn.Sequential(nn.Tanh()), lambda s, x: torch.tanh(x), lambda s, x: x.tanh(),
        lambda s, x: F.tanh(x)]),
    "sigmoid": (Op.ACTIVATION, {"function": "sigmoid"}, ROW, [
        nn.Sigmoid(), lambda s, x: torch.sigmoid(x), lambda s, x: x.sigmoid(), lambda s, x: F.sigmoid(x),
        lambda s, x: torch.special.expit(x)]),
    "silu": (Op.ACTIVATION, {"function": "silu"}, ROW, [nn.SiLU(), lambda s, x: F.silu(x)]),
    "elu": (Op.ACTIVATION, {"function": "elu", "alpha": 1.0}, ROW, [nn.ELU(), lambda s, x: F.elu(x)]),
    "softplus": (Op.ACTIVATION, {"function": "softplus", "beta": 2.0}, ROW, [
        nn.Softplus(2.0), lambda s, x: F.softplus(x, 2.0)]),
    "hardtanh": (Op.ACTIVATION, {"function": "hardtanh", "min_val": -2.0, "max_val": 1.0}, ROW, [
        nn.Hardtanh(-2.0), lambda s, x: F.hardtanh(x, -2.0)]),
    "prelu": (Op.ACTIVATION, {"function": "prelu"}, ROW, [nn.PReLU(4), lambda s, x: F.prelu(x, s.vector)]),
    "erf": (Op.ACTIVATION, {"function": "erf"}, ROW, [
        lambda s, x: torch.erf(x), lambda s, x: x.erf(), lambda s, x: torch.special.erf(x)]),
    "sin": (Op.ACTIVATION, {"function": "sin"}, ROW, [lambda s, x: torch.sin(x), lambda s, x: x.sin()]),
    "abs": (Op.ACTIVATION, {"function": "abs"}, ROW, [
        lambda s, x: torch.abs(x), lambda s, x: x.abs(), lambda s, x: abs(x), lambda s, x: x.absolute()]),
    "neg": (Op.ACTIVATION, {"function": "neg"}, ROW, [
        lambda s, x: -x, lambda s, x: x.neg(), lambda s, x: torch.neg(x)]),
    "square": (Op.ACTIVATION, {"function": "pow", "exponent": 3}, ROW, [
        lambda s, x: x**3, lambda s, x: x.pow(3), lambda s, x: torch.pow(x, 3)]),
    "clamp": (Op.ACTIVATION, {"function": "clamp", "min": 0}, ROW, [
        lambda s, x: x.clamp(min=0), lambda s, x: torch.clamp(x, min=0), lambda s, x: x.clamp(0),
        lambda s, x: torch.clip(x, 0)]),
    "softmax": (Op.SOFTMAX, {"function": "softmax", "dim": 1}, ROW, [
        nn.Softmax(1), nn.Softmax(-1), lambda s, x: F.softmax(x, 1), lambda s, x: x.softmax(-1),
        lambda s, x: torch.softmax(x, dim=1)]),
    "log_softmax": (Op.SOFTMAX, {"function": "log_softmax", "dim": 1}, ROW, [
        nn.LogSoftmax(1), lambda s, x: F.log_softmax(x, dim=-1), lambda s, x: x.log_softmax(1)]),
    "linear": (Op.LINEAR, {"in_features": 4, "out_features": 5, "bias": True}, ROW, [
        nn.Linear(4, 5), lambda s, x: F.linear(x, s.matrix, s.bias),
        lambda s, x: F.linear(x, weight=s.matrix, bias=s.bias)]),
    "conv": (Op.CONV, {"in_channels": 4, "out_channels": 5, "kernel_size": (3, 3), "stride": (2, 2),
                       "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros",
                       "bias": True}, IMAGE, [
        nn.Conv2d(4, 5, 3, 2, 1), lambda s, x: F.conv2d(x, s.w, s.bias, 2, 1),
        lambda s, x: torch.conv2d(x, s.w, s.bias, stride=(2, 2), padding=(1, 1))]),
    "conv same": (Op.CONV, {"padding": ((2, 2), (2, 2)), "dilation": (2, 2)}, IMAGE, [
        nn.Conv2d(4, 5, 3, padding="same", dilation=2),
        lambda s, x: F.conv2d(x, s.w, s.bias, padding="same", dilation=2), nn.Conv2d(4, 5, 3, padding=2, dilation=2)]),
    "conv 1d": (Op.CONV, {"kernel_size": (3,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}, LINE, [
        nn.Conv1d(4, 5, 3), lambda s, x: F.conv1d(x, s.line, s.bias)]),
    "depthwise": (Op.CONV, {"groups": 4, "in_channels": 4, "out_channels": 4, "bias": False}, IMAGE, [
        nn.Conv2d(4, 4, 3, groups=4, bias=False), lambda s, x: F.conv2d(x, s.depthwise, groups=4)]),
    "conv_transpose": (Op.CONV_TRANSPOSE, {"in_channels": 4, "out_channels": 5, "kernel_size": (3, 3), "stride": (2, 2),
                                           "output_padding": (1, 1), "groups": 1}, IMAGE, [
        nn.ConvTranspose2d(4, 5, 3, 2, output_padding=1),
        lambda s, x: F.conv_transpose2d(x, s.transposed, s.bias, stride=2, output_padding=1)]),
    "layer_norm": (Op.LAYER_NORM, {"normalized_shape": (4,), "eps": 1e-5}, ROW, [
        nn.LayerNorm(4), nn.LayerNorm((4,)), lambda s, x: F.layer_norm(x, (4,), s.vector, s.vector)]),
    "rms_norm": (Op.RMS_NORM, {"normalized_shape": (4,)}, ROW, [
        nn.RMSNorm(4), lambda s, x: F.rms_norm(x, (4,), s.vector)]),
    "group_norm": (Op.GROUP_NORM, {"num_groups": 2, "eps": 1e-5}, IMAGE, [
        nn.GroupNorm(2, 4), lambda s, x: F.group_norm(x, 2, s.vector, s.vector)]),
    "batch_norm": (Op.BATCH_NORM, {"eps": 1e-5, "num_features": 4}, IMAGE, [
        nn.BatchNorm2d(4), lambda s, x: F.batch_norm(x, s.vector, s.vector, s.vector, s.vector)]),
    "max_pool": (Op.MAX_POOL, {"kernel_size": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)),
                              "ceil_mode": False}, IMAGE, [
        nn.MaxPool2d(2), nn.MaxPool2d((2, 2), 2), lambda s, x: F.max_pool2d(x, 2),
        lambda s, x: torch.max_pool2d(x, (2, 2)), lambda s, x: F.max_pool2d(x, kernel_size=2, stride=2)]),
    "avg_pool": (Op.AVG_POOL, {"kernel_size": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)),
                               "count_include_pad": False, "divisor_override": None}, IMAGE, [
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), lambda s, x: F.avg_pool2d(x, 3, 1, 1, False, False)]),
    "divisor": (Op.AVG_POOL, {"divisor_override": 5, "count_include_pad": True}, IMAGE, [
        nn.AvgPool2d(2, divisor_override=5), lambda s, x: F.avg_pool2d(x, 2, divisor_override=5)]),
    "adaptive": (Op.ADAPTIVE_AVG_POOL, {"output_size": (1, 1)}, IMAGE, [
        nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), lambda s, x: F.adaptive_avg_pool2d(x, 1)]),
    "mean": (Op.MEAN, {"dim": (2, 3), "keepdim": False}, IMAGE, [
        lambda s, x: x.mean((2, 3)), lambda s, x: x.mean([-2, -1]), lambda s, x: torch.mean(x, dim=(2, 3)),
        lambda s, x: torch.mean(x, (-1, -2)), lambda s, x: x.mean(dim=[2, 3], keepdim=False)]),
    "mean kept": (Op.MEAN, {"dim": (3,), "keepdim": True}, IMAGE, [
        lambda s, x: x.mean(-1, True), lambda s, x: torch.mean(x, 3, keepdim=True),
        lambda s, x: x.mean(-1, keepdim=True)]),
    "sum": (Op.SUM, {"dim": (1,)}, ROW, [lambda s, x: x.sum(1), lambda s, x: torch.sum(x, dim=-1)]),
    "flatten": (Op.FLATTEN, {"start_dim": 1, "end_dim": 3}, IMAGE, [
        nn.Flatten(), lambda s, x: x.flatten(1), lambda s, x: torch.flatten(x, 1), lambda s, x: x.view(x.size(0), -1),
        lambda s, x: x.reshape(len(x), -1), lambda s, x: x.view(x.shape[0], 4 * 6 * 6), lambda s, x: x.flatten(1, -1),
        lambda s, x: torch.reshape(x, (x.shape[0], -1)), lambda s, x: x.view(-1, 144),
        lambda s, x: x.view(x.size()[0], x.shape[1] * x.shape[2] * x.shape[3])]),
    "permute": (Op.PERMUTE, {"dims": (0, 2, 1)}, LINE, [
        lambda s, x: x.permute(0, 2, 1), lambda s, x: torch.permute(x, (0, 2, 1)), lambda s, x: x.transpose(1, 2),
        lambda s, x: x.mT, lambda s, x: torch.swapaxes(x, -1, -2), lambda s, x: x.movedim(1, 2),
        lambda s, x: torch.movedim(x, 1, -1), lambda s, x: x.permute((0, 2, 1))]),
    "pad": (Op.PAD, {"mode": "constant", "value": 0.0}, IMAGE, [
        nn.ZeroPad2d((1, 2, 0, 1)), nn.ConstantPad2d((1, 2, 0, 1), 0.0), lambda s, x: F.pad(x, (1, 2, 0, 1))]),
    "reflect": (Op.PAD, {"mode": "reflect"}, IMAGE, [
        nn.ReflectionPad2d(1), lambda s, x: F.pad(x, (1, 1, 1, 1), mode="reflect")]),
    "replicate": (Op.PAD, {"mode": "replicate"}, IMAGE, [
        nn.ReplicationPad2d(1), lambda s, x: F.pad(x, (1, 1, 1, 1), "replicate")]),
    "circular": (Op.PAD, {"mode": "circular"}, IMAGE, [
        nn.CircularPad2d(1), lambda s, x: F.pad(x, [1, 1, 1, 1], mode="circular")]),
    "add": (Op.ADD, {}, ROW, [
        lambda s, x: x + x, lambda s, x: torch.add(x, x), lambda s, x: x.add(x), lambda s, x: operator.iadd(x, x)]),
    "add number": (Op.ADD, {"scalar": 2}, ROW, [lambda s, x: x + 2, lambda s, x: 2 + x, lambda s, x: torch.add(x, 2)]),
    "subtract number": (Op.ADD, {"scalar": -2}, ROW, [lambda s, x: x - 2, lambda s, x: x.sub(2)]),
    "divide by number": (Op.MULTIPLY, {"scalar": 0.5}, ROW, [
        lambda s, x: x / 2, lambda s, x: torch.div(x, 2), lambda s, x: 0.5 * x]),
    "divide by zero": (Op.DIVIDE, {}, ROW, [lambda s, x: x / 0]),
    "multiply": (Op.MULTIPLY, {}, ROW, [lambda s, x: x * x, lambda s, x: torch.mul(x, x), lambda s, x: x.mul(x)]),
    "matmul": (Op.MATMUL, {}, ROW, [
        lambda s, x: x @ s.vector, lambda s, x: torch.matmul(x, s.vector), lambda s, x: x.matmul(s.vector)]),
    "concat": (Op.CONCAT, {"dim": 1}, ROW, [
        lambda s, x: torch.cat([x, x], 1), lambda s, x: torch.cat((x, x), dim=-1),
        lambda s, x: torch.concat([x, x], 1)]),
    "dropout": (Op.DROPOUT, {"p": 0.3}, ROW, [
        nn.Dropout(0.3), lambda s, x: F.dropout(x, 0.3, s.training),
        lambda s, x: F.dropout(x, p=0.3, training=False)]),
    "identity": (Op.IDENTITY, {}, ROW, [nn.Identity(), lambda s, x: x.contiguous(), lambda s, x: x.clone()]),
    "upsample": (Op.UPSAMPLE, {"mode": "nearest"}, IMAGE, [
        nn.Upsample(scale_factor=2), lambda s, x: F.interpolate(x, scale_factor=2)]),
    "attention": (Op.ATTENTION, {}, LINE, [lambda s, x: F.scaled_dot_product_attention(x, x, x)]),
    "split": (Op.ITEM, {}, ROW, [lambda s, x: x.chunk(2, 1)[0], lambda s, x: torch.split(x, 2, 1)[0]]),
}  # fmt: skip
CASES = [(name, place) for name, row in TABLE.items() for place in range(len(row[3]))]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_spelling(name, place):
    op, attributes, shape, spellings = TABLE[name]
    found, facts = read(spellings[place], shape)
    assert found is op
    assert {key: facts.get(key) for key in attributes} == attributes
    assert facts == read(spellings[0], shape)[1]


@pytest.mark.parametrize("name", [n for n in nn.modules.activation.__all__ if n not in ("MultiheadAttention", "GLU")])
def test_every_activation_module_is_one_of_ours(name):
    arguments = {"Threshold": (0.1, 0.2), "Softmax": (1,), "LogSoftmax": (1,), "Softmin": (1,)}.get(name, ())
    op, attributes = read(getattr(nn, name)(*arguments), IMAGE)
    assert op in (Op.ACTIVATION, Op.SOFTMAX)
    assert attributes["function"]


POINTWISE = (
    "erf erfc sin cos tan sinh cosh tanh asin acos atan asinh acosh exp exp2 expm1 log log1p sqrt rsqrt abs sign"
)


@pytest.mark.parametrize("name", POINTWISE.split())
def test_function_and_method_of_an_activation(name):
    expected = (Op.ACTIVATION, {"function": name})
    assert read(lambda s, x: getattr(torch, name)(x), ROW) == expected
    assert read(lambda s, x: getattr(x, name)(), ROW) == expected


def test_multihead_attention_and_embedding():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.attend = nn.Embedding(7, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, tokens):
            x = self.table(tokens)
            return self.attend(x, x, x, need_weights=False)[0]

    graph = trace(Net().eval(), torch.ones(2, 3, dtype=torch.long))
    assert graph["table"].op is Op.EMBEDDING
    assert graph["table"].attributes["num_embeddings"] == 7
    assert graph["attend"].op is Op.ATTENTION
    assert graph["attend"].attributes["num_heads"] == 2
    assert graph["attend"].inputs == ("table", "table", "table")
    assert torch.equal(
        graph.module(torch.zeros(5, 3, dtype=torch.long)), graph.root(torch.zeros(5, 3, dtype=torch.long))
    )


def test_a_module_with_another_forward_is_not_taken_for_its_parent():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * F.linear(x, self.weight, self.bias)

    graph = trace(nn.Sequential(Doubled(3, 3)), torch.ones(2, 3))
    assert [node.op for node in graph.nodes if node.op is not Op.PARAMETER] == [
        Op.INPUT,
        Op.LINEAR,
        Op.MULTIPLY,
        Op.OUTPUT,
    ]

"""`trace`: shapes from the example, free batch size, opaque culprits, the module left as it was."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pluriform.data.signature import Signature
from pluriform.errors import GraphError, ShapeError
from pluriform.graph.ops import Op
from pluriform.graph.proxy import ShapedProxy
from pluriform.graph.trace import trace
from pluriform.nets.zoo import NAMES, build

torch.set_num_threads(1)


class Asking(nn.Module):
    """Python that asks for shapes; `question` gives the output from `(self, x)`."""

    def __init__(self, question):
        super().__init__()
        self.question = question
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.linear = nn.Linear(3 * 16, 5)

    def forward(self, x):
        return self.question(self, self.conv(x))


def spatial_mean(self, x):
    for axis in reversed(range(2, x.dim())):
        x = x.mean(axis)
    return x


def by_branches(self, x):
    if x.shape[0] > 0 and x.ndim == 4 and x.size(1) == 3 and len(x.shape) == 4:
        x = x * 2
    return x if x.dtype is torch.float32 and x.device.type == "cpu" and not x.is_cuda else x.unknown()


def unpacked(self, x):
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height * width).mean(-1)


def shuffled(self, x):
    batch, channels, height, width = x.size()
    return x.view(batch, 3, channels // 3, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)


def squeezed(self, x):
    return x.sum((2, 3), keepdim=True).squeeze(-1).squeeze(-1) / x.shape[2] / x.shape[3]


QUESTIONS = {
    "view by size": lambda s, x: s.linear(x.view(x.size(0), -1)),
    "reshape by len": lambda s, x: s.linear(x.reshape(len(x), -1)),
    "view by numbers": lambda s, x: s.linear(x.view(x.shape[0], 3 * 16)),
    "view by product": lambda s, x: s.linear(x.view(x.shape[0], x.shape[1] * x.shape[2] * x.shape[-1])),
    "view by numel": lambda s, x: s.linear(x.view(x.size(0), x[0].numel())),
    "view by all numel": lambda s, x: s.linear(x.view(x.size(0), x.numel() // x.size(0))),
    "view of shape slice": lambda s, x: s.linear(x.reshape(*x.shape[:1], -1)),
    "view of a shape": lambda s, x: x.reshape(x.shape[0], 48).view(x.shape),
    "zeros of the batch": lambda s, x: x.flatten(2).mean(2) + torch.zeros(x.size(0), 3),
    "new tensor": lambda s, x: x + x.new_ones(x.shape[0], 1, 1, 1),
    "expand": lambda s, x: x + s.conv.bias.view(1, 3, 1, 1).expand(x.shape[0], -1, -1, -1),
    "tokens": lambda s, x: x.flatten(2).transpose(1, 2),
    "float arithmetic": lambda s, x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]) ** 0.5,
    "module made on the fly": lambda s, x: nn.ReLU()(x),
    "isinstance": lambda s, x: x.relu() if isinstance(x, torch.Tensor) else x.unknown(),
    "iteration": lambda s, x: torch.cat([part * 2 for part in x.unbind(1)], 1),
    "unpacking": lambda s, x: (lambda a, b, c: a + b * c)(*x.split(1, 1)),
    "sum of chunks": lambda s, x: sum(x.chunk(3, 1)),
    "boolean of training": lambda s, x: x if s.training else -x,
    "in place": lambda s, x: x.relu_().add_(1).mul(2),
    "augmented": lambda s, x: augmented(x),
    "negative index": lambda s, x: x[:, -1, :, None, :2],
    "loop over dims": spatial_mean, "branches": by_branches, "unpacked": unpacked, "shuffled": shuffled,
    "squeezed": squeezed,
}  # fmt: skip


def augmented(x):
    y = x.relu()
    z = y
    y += x
    y *= 2
    return z + y


def seeded(make, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*arguments).eval()


def images(count, *shape):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_answered_and_the_batch_size_stays_free(name):
    module = seeded(Asking, QUESTIONS[name])
    graph = trace(module, images(2, 2, 4, 4))
    assert all(node.op is not Op.OPAQUE or node.module is None for node in graph.nodes)
    for count in (1, 2, 5):
        x = images(count, 2, 4, 4)
        expected = module(x.clone())
        torch.testing.assert_close(graph.module(x.clone()), expected)
    assert graph.output.shape == tuple(module(images(2, 2, 4, 4)).shape)


@pytest.mark.parametrize("name", NAMES)
def test_zoo_networks_trace_whole(name):
    signature = Signature("s", "classification", (3, 16, 16), 5)
    module = build(name, signature).eval()
    graph = trace(module, torch.zeros(2, 3, 16, 16))
    assert all(node.op is not Op.OPAQUE for node in graph.nodes)
    assert all(node.source for node in graph.nodes if node.op not in (Op.INPUT, Op.OUTPUT))
    x = images(3, 3, 16, 16)
    assert torch.equal(graph.module(x), module(x))


def test_every_shape_is_that_of_the_run():
    module = seeded(Asking, QUESTIONS["view by size"])
    graph = trace(module, images(2, 2, 4, 4))
    found = {}

    class Running(torch.fx.Interpreter):
        def run_node(self, n):
            found[n.name] = super().run_node(n)
            return found[n.name]

    Running(graph.module).run(images(2, 2, 4, 4))
    for node in graph.nodes:
        assert node.shape == tuple(found[graph.names[node.name]].shape)
        assert node.dtype is found[graph.names[node.name]].dtype


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["conv", "norm", "relu", "add", "half", "cat", "pool", "mean"]), max_size=6),
    count=st.integers(1, 4),
)
def test_random_networks_give_their_own_output(steps, count):
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in steps)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            for step, conv in zip(steps, self.convs, strict=True):
                match step:
                    case "conv":
                        x = conv(x)
                    case "norm":
                        x = self.norm(x)
                    case "relu":
                        x = F.relu(x, inplace=True)
                    case "add":
                        x = x + conv(x).tanh()
                    case "half":
                        a, b = x.chunk(2, 1)
                        x = torch.cat([b, a * 2], dim=1)
                    case "cat":
                        x = torch.cat([x, conv(x)], 1)[:, ::2]
                    case "pool":
                        x = F.avg_pool2d(x, 2, 1, 1)
                    case "mean":
                        x = x - x.mean((2, 3), keepdim=True)
            return x.reshape(x.size(0), -1)

    module = seeded(Random)
    graph = trace(module, torch.zeros(2, 4, 5, 5))
    x = images(count, 4, 5, 5)
    torch.testing.assert_close(graph.module(x.clone()), module(x.clone()))
    assert sum(node.op is Op.CONV for node in graph.nodes) == sum(step in ("conv", "add", "cat") for step in steps)


class Jump(nn.Module):
    """Control flow on values."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.middle = nn.Sequential(nn.Linear(4, 4), Jump(), nn.Tanh())
        self.after = nn.Linear(4, 2)

    def forward(self, x):
        return self.after(self.middle(self.before(x)))


def test_the_smallest_culprit_is_opaque():
    module = seeded(Outer)
    graph = trace(module, torch.ones(2, 4))
    assert [node.name for node in graph.nodes if node.op is Op.OPAQUE] == ["middle.1"]
    assert [node.name for node in graph.nodes] == [
        "x", "before.0", "before.1", "middle.0", "middle.1", "middle.2", "after", "output",
    ]  # fmt: skip
    for x in (images(5, 4), -images(3, 4).abs()):
        assert torch.equal(graph.module(x), module(x))


def partly_written(self, x):
    y = self.inner(x)
    y[:, 0] = 0
    return y


def counted(self, x):
    return x * float(x.abs().max())


def repeated(self, x):
    for _ in range(int(x.abs().sum()) % 3):
        x = self.inner(x)
    return x


@pytest.mark.parametrize("forward", [partly_written, counted, repeated, Jump.forward])
def test_a_root_that_cannot_be_followed_is_one_node(forward):
    module = seeded(type("Root", (Jump,), {"forward": forward}))
    graph = trace(module, images(2, 4))
    assert [node.op for node in graph.nodes] == [Op.INPUT, Op.OPAQUE, Op.OUTPUT]
    x = images(5, 4)
    torch.testing.assert_close(graph.module(x.clone()), module(x.clone()))


class Restless(nn.Module):
    """Writes to itself whenever it runs."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(()))
        self.seen, self.last, self.constant = [], None, torch.ones(4)

    def forward(self, x):
        self.last = x
        self.seen.append(x)
        self.count += 1
        return self.drop(self.norm(x)) + torch.arange(4) + self.constant


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was(training):
    module = nn.Sequential(Restless(), Jump()).train(training)
    module[1].eval()
    before, attributes = copy.deepcopy(module.state_dict()), {n: dict(vars(m)) for n, m in module.named_modules()}
    modes, state = [part.training for part in module.modules()], torch.random.get_rng_state()
    trace(module, torch.ones(3, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.state_dict().keys() == before.keys()
    assert modes == [part.training for part in module.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
    assert module[0].seen == []
    assert module[0].last is None
    for name, part in module.named_modules():
        assert vars(part).keys() == attributes[name].keys()
        assert all(vars(part)[key] is value for key, value in attributes[name].items())


def test_weights_are_shared_and_the_mode_follows_the_module():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    graph = trace(module, torch.ones(2, 4))
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(3)
    assert set(graph.module(torch.ones(50, 4)).unique().tolist()) == {0.0, 6.0}


def test_several_inputs_and_arguments_left_at_their_defaults():
    class Two(nn.Module):
        def forward(self, a, b, scale=2.0, *, flip=False):
            return (a - b if flip else a + b) * scale

    graph = trace(Two(), (torch.ones(2, 3), torch.ones(2, 3)))
    assert [node.name for node in graph.inputs] == ["a", "b"]
    assert torch.equal(graph.module(torch.ones(4, 3), torch.ones(4, 3)), torch.full((4, 3), 4.0))


def test_outputs_in_containers():
    class Many(nn.Module):
        def forward(self, x):
            return {"sum": x.sum(1), "parts": (x, x * 2)}

    graph = trace(Many(), torch.ones(2, 3))
    assert graph.output.shape == ((2,), ((2, 3), (2, 3)))
    assert graph.module(torch.ones(5, 3))["parts"][1].shape == (5, 3)


def test_tied_modules_are_counted_and_named_apart():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    graph = trace(Tied(), torch.ones(2, 4))
    assert [(node.name, node.module, node.calls) for node in graph.nodes if node.op is Op.LINEAR] == [
        ("layer", "layer", 2), ("layer@1", "layer", 2),
    ]  # fmt: skip
    assert graph.submodule(graph["layer@1"]) is graph.root.layer


def test_sources_name_the_line_of_the_user():
    graph = trace(Outer(), torch.ones(2, 4))
    lines = {node.name: node.source for node in graph.nodes}
    assert lines["after"].startswith("test_trace.py:")
    assert lines["x"] is None
    code = "class Typed(nn.Module):\n    def forward(self, x):\n        return x.relu()\n"
    space = {"nn": nn, "__name__": "__main__"}
    exec(compile(code, "<stdin>", "exec"), space)
    assert trace(space["Typed"](), torch.ones(2, 3))["relu"].source == "<stdin>:3"


class Frozen(nn.Module):
    """A backbone of two layers without gradients, inside a branch that has them."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(4, 4)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features + self.branch(x))


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad])
def test_weights_without_gradients_stay_without(outside):
    net, x = Frozen(), torch.randn(3, 4)
    with outside():
        graph = trace(net, x)
    assert [node.name for node in graph.nodes].count("detach") == 1
    root = graph.root
    root(x).sum().backward()
    assert {name for name, weight in root.named_parameters() if weight.grad is None} == {
        "backbone.0.weight",
        "backbone.0.bias",
    }
    assert torch.equal(root(x), net(x))


def test_half_precision_and_integers_keep_their_types():
    graph = trace(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)).half(), torch.ones(2, 3, dtype=torch.long))
    assert [node.dtype for node in graph.nodes] == [torch.long, torch.float16, torch.float16, torch.float16]


def test_parameters_read_by_the_forward_function():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("shift", torch.ones(4))

        def forward(self, x):
            return x * self.scale + self.shift

    graph = trace(Scaled(), torch.ones(2, 4))
    paths = [node.attributes["path"] for node in graph.nodes if node.op is Op.PARAMETER]
    assert paths == ["scale", "shift"]
    assert graph["scale"].shape == (4,)


def test_the_record_reads_and_prints():
    graph = trace(Outer(), torch.ones(2, 4))
    assert [node.name for node in graph.consumers("middle.0")] == ["middle.1"]
    assert "before.0" in graph
    lines = str(graph).splitlines()
    assert len(lines) == len(graph) + 1
    assert lines[2].split() == ["before.0", "linear", "x", "2x4"]
    with pytest.raises(AttributeError):
        graph.nodes[0].name = "other"


def test_wrong_inputs_are_told():
    with pytest.raises(ShapeError, match=r"expected inputs that the network takes; got \(2, 7\).*trace of Outer"):
        trace(Outer(), torch.ones(2, 7))


def test_names_that_code_cannot_write_are_told():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({"in": nn.Linear(3, 2), "out": nn.Linear(2, 1)})

        def forward(self, x):
            return self.layers["out"](self.layers["in"](x))

    with pytest.raises(GraphError, match=r"no keywords of Python; got layers\.in .trace of Named."):
        trace(Named(), torch.zeros(1, 3))


def test_lazy_modules_must_have_run():
    with pytest.raises(ShapeError, match=r"got 0\.weight, of a lazy module.*call the network once"):
        trace(nn.Sequential(nn.LazyLinear(3)), torch.ones(2, 4))


def test_a_layer_whose_output_a_hook_changes_is_not_taken_for_the_layer():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    module[0].register_forward_hook(lambda _, __, output: 2 * output)
    graph = trace(module, torch.ones(2, 4))
    assert [node.op for node in graph.nodes] == [Op.INPUT, Op.OPAQUE, Op.ACTIVATION, Op.OUTPUT]
    assert torch.equal(graph.module(torch.ones(3, 4)), module(torch.ones(3, 4)))


@pytest.mark.parametrize("training", [False, True])
def test_transformer_layers_are_followed(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    module = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).train(training)
    graph = trace(module, torch.ones(2, 5, 8))
    assert sum(node.op is Op.ATTENTION for node in graph.nodes) == 2
    x = images(3, 5, 8)
    torch.testing.assert_close(graph.module(x), module(x))


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_layers_with_computed_weights_are_layers(norm):
    module = nn.Sequential(norm(nn.Linear(4, 3))).train()
    before = copy.deepcopy(module.state_dict())
    node = trace(module, torch.ones(2, 4))["0"]
    assert node.op is Op.LINEAR
    assert (node.attributes["in_features"], node.attributes["out_features"]) == (4, 3)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_proxy_without_its_node_yet_says_so_at_once():
    with pytest.raises(AttributeError, match="node"):
        _ = object.__new__(ShapedProxy).shape


def test_hooks_and_a_forward_of_the_instance_are_followed_at_the_root():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    module.register_forward_pre_hook(lambda _, given: ((given[0] - 0.5) / 2,))
    module.register_forward_hook(lambda _, __, output: 3 * output)
    assert torch.equal(trace(module, x[:2]).module(x), module(x))
    other = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    other.forward = lambda x: other[0](x).tanh()
    graph = trace(other, x[:2])
    assert torch.equal(graph.module(x), other(x))
    assert [node.attributes["function"] for node in graph.nodes if node.op is Op.ACTIVATION] == ["tanh"]

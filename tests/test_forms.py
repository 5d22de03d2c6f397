import json
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from pluriform.errors import ConfigError, CorruptFileError, RunError
from pluriform.forms import load_form, save_form


class Tied(nn.Module):
    """Shared modules and parameters, functions, odd attributes: what a plain state_dict loses."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.again = self.first
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(4, 8)
        self.second.weight = self.first.weight
        self.activation = F.gelu
        self.limits = (1, 2.5, float("inf"))
        self.head = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.1), nn.TransformerEncoderLayer(4, 2, 8))
        self.table = {"a": [1, 2], 3: (4,)}
        self.register_buffer("offset", torch.ones(4), persistent=False)

    def forward(self, x):
        y = self.activation(self.norm(self.again(x) + self.second(x)))
        return self.head(y).clamp(max=self.limits[2]) + self.offset


class WithLambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = lambda x: x.relu()

    def forward(self, x):
        return self.function(self.linear(x))


def test_a_form_comes_back_whole(tmp_path):
    net = Tied()
    net(torch.randn(16, 4))
    net.eval()
    x = torch.randn(5, 4)
    copy = load_form(save_form(net, tmp_path / "form"))
    assert type(copy) is Tied
    assert torch.equal(copy(x), net(x))
    assert copy.second.weight is copy.first.weight
    assert copy.again is copy.first
    assert (copy.limits, copy.table, copy.activation) == (net.limits, net.table, F.gelu)
    assert [m.training for m in copy.modules()] == [m.training for m in net.modules()]
    assert copy.state_dict().keys() == net.state_dict().keys()


def test_rewritten_networks_come_back(tmp_path):
    net = fx.symbolic_trace(Tied().eval())
    copy = load_form(save_form(net, tmp_path / "form"))
    again = load_form(save_form(copy, tmp_path / "again"))
    x = torch.randn(5, 4)
    assert torch.equal(copy(x), net(x))
    assert torch.equal(again(x), net(x))


def test_what_json_cannot_hold_comes_from_a_network_of_the_caller(tmp_path):
    net = WithLambda()
    path = save_form(nn.Sequential(net), tmp_path / "form")
    with pytest.raises(ConfigError, match=r"got function \(function\) of .*WithLambda.*load_form\(path, module=net\)"):
        load_form(path)
    x = torch.randn(3, 4)
    assert torch.equal(load_form(path, module=net)(x), net(x))


class Holder(nn.Module):
    """A function of its own around a part that has another under the same name."""

    def __init__(self):
        super().__init__()
        self.function = lambda x: x.tanh()
        self.part = WithLambda()

    def forward(self, x):
        return self.function(self.part(x) - 1)


class Act(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_each_part_gets_its_own_function_back(tmp_path):
    x = torch.randn(5, 4)
    for place, net in enumerate(
        (
            Holder(),
            nn.Sequential(Act(lambda x: x.relu()), nn.Sequential(Act(lambda x: 2 * x))),
            nn.Sequential(Act(lambda x: x + 1), nn.Sequential(nn.Identity(), Act(lambda x: x * x))),
        )
    ):
        inside = nn.ModuleDict({"module": net})  # As a form holds the network.
        path = save_form(inside, tmp_path / str(place))
        assert torch.equal(load_form(path, module=net)["module"](x), net(x))


def test_a_device_by_the_word_that_fit_takes(tmp_path):
    path = save_form(nn.Linear(2, 2), tmp_path / "form")
    assert load_form(path, device="auto").weight.device.type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="a device that torch can use; got 'gpu'"):
        load_form(path, device="gpu")


def test_hooks_are_not_stored_which_is_said(tmp_path, caplog):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net[1].register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    save_form(net, tmp_path / "form")
    assert "hooks of 1 are not stored" in caplog.text


def test_a_class_local_to_a_function_comes_from_a_network_of_the_caller(tmp_path):
    class Local(nn.Module):
        def forward(self, x):
            return 2 * x

    path = save_form(Local(), tmp_path / "form")
    with pytest.raises(ConfigError, match="pass a network of that class as module="):
        load_form(path)
    assert load_form(path, module=Local())(3) == 6


@pytest.mark.parametrize("hostile", ["os:system", "torch:load", "torch.hub:load", "builtins:eval", "subprocess:run"])
def test_functions_that_are_not_on_tensors_are_refused(tmp_path, hostile):
    path = save_form(fx.symbolic_trace(nn.Sequential(nn.ReLU(), nn.Linear(2, 2))), tmp_path / "form")
    structure = json.loads((path / "structure.json").read_text())
    structure["root"]["code"].insert(
        1,
        {
            "op": "call_function",
            "name": "x",
            "target": {"function": hostile},
            "args": {"items": ["true"]},
            "kwargs": {"entries": {}},
        },
    )
    (path / "structure.json").write_text(json.dumps(structure))
    with pytest.raises(ConfigError, match="expected a function on tensors"):
        load_form(path)


def test_classes_of_modules_that_nobody_imported_are_refused(tmp_path):
    path = save_form(nn.Linear(2, 2), tmp_path / "form")
    text = (path / "structure.json").read_text().replace("torch.nn.modules.linear:Linear", "antigravity:fly")
    (path / "structure.json").write_text(text)
    with pytest.raises(ConfigError, match="import antigravity first"):
        load_form(path)


def test_damage_is_said(tmp_path):
    path = save_form(nn.Linear(2, 2), tmp_path / "form")
    weights = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(weights[:-4])
    with pytest.raises(CorruptFileError, match="expected a whole form"):
        load_form(path)
    (path / "weights.safetensors").write_bytes(weights)
    (path / "structure.json").write_text("{")
    with pytest.raises(CorruptFileError, match="expected a whole form"):
        load_form(path)


def test_only_forms_are_read_and_replaced(tmp_path):
    with pytest.raises(RunError, match=r"no structure\.json"):
        load_form(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="nothing was changed"):
        save_form(nn.Linear(2, 2), tmp_path)
    path = save_form(nn.Linear(2, 2), tmp_path / "form")
    save_form(nn.Linear(3, 2), path)
    assert load_form(path).in_features == 3


def test_operators_of_graphs_are_kept(tmp_path):
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(operator.getitem, (x, (slice(None), slice(0, 2), ...))))
    net = fx.GraphModule(nn.Module(), graph)
    value = torch.randn(3, 4)
    assert torch.equal(load_form(save_form(net, tmp_path / "form"))(value), value[:, 0:2])


@pytest.mark.parametrize(
    "function", [torch.relu, torch.tanh, torch.flatten, torch.softmax, torch.where, torch.linspace]
)
def test_functions_that_tensors_have_as_methods_are_kept(tmp_path, function):
    graph = fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"), 1)))
    copy = load_form(save_form(fx.GraphModule(nn.Module(), graph), tmp_path / "form"))
    assert [node.target for node in copy.graph.nodes if node.op == "call_function"] == [function]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_come_back_and_can_be_trained_on(tmp_path, kind):
    net = kind(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    copy, x = load_form(save_form(nn.Sequential(net), tmp_path / "form"))[0], torch.randn(2, 4, 3)
    assert torch.equal(copy(x)[0], net(x)[0])
    with torch.no_grad():
        copy.weight_hh_l1.zero_()  # Seen by the layer, which keeps its parameters in a list as well.
    assert not torch.equal(copy(x)[0], net(x)[0])


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save_form(nn.Linear(20, 20), tmp_path / "form")
    weights = bytearray((path / "weights.safetensors").read_bytes())
    weights[-7] ^= 64
    (path / "weights.safetensors").write_bytes(bytes(weights))
    with pytest.raises(CorruptFileError, match="not the file that was written"):
        load_form(path)


def test_a_class_written_in_a_script_is_found_in_the_users_network(tmp_path):
    path = save_form(WithLambda(), tmp_path / "form")
    text = (path / "structure.json").read_text()
    (path / "structure.json").write_text(text.replace(f"{WithLambda.__module__}:", "__main__:"))
    assert isinstance(load_form(path, module=WithLambda()), WithLambda)

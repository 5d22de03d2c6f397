"""Every operation at every legal place keeps the function, in evaluation and in training mode."""

import collections
import copy
import functools

import numpy as np
import pytest
import torch

from pluriform.data.signature import Signature
from pluriform.errors import GraphError
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.parameters import functional_call
from pluriform.nets.zoo import NAMES, build
from pluriform.search.morphism import Morph
from pluriform.search.moves import OPERATIONS, apply, draw_moves, legal_moves, predict, replay
from pluriform.search.outline import Outline
from pluriform.search.start import morphable

torch.set_num_threads(1)
SMALL = ("lenet", "resnet8")


def outputs(module, inputs, training):
    """Of a copy, so that running statistics stay."""
    with torch.no_grad():
        return copy.deepcopy(module).train(training)(inputs)


def largest_difference(parent, child, inputs, training):
    wanted = outputs(parent, inputs, training)
    return float((outputs(child, inputs, training) - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def check(net, graph, morph, inputs, tolerance=1e-10):
    before = fingerprint(graph.module), str(graph)
    planned = predict(Outline.of(graph), morph)
    child = apply(graph, morph)
    assert (fingerprint(graph.module), str(graph)) == before
    for training in (False, True):
        assert largest_difference(net, child.module, inputs, training) <= tolerance, (morph, training)
    assert planned.architecture == Outline.of(child).architecture
    assert planned.architecture != Outline.of(graph).architecture
    return child


def zoo(name, dtype=torch.float64, pixels=8):
    net = build(name, Signature("random", "classification", (1, pixels, pixels), 3), seed=1).to(dtype)
    return net, torch.randn(4, 1, pixels, pixels, generator=torch.Generator().manual_seed(2), dtype=dtype)


@functools.cache
def started(name):
    """A network ready to be morphed, which every test leaves as it is."""
    net, inputs = zoo(name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).to(parameter) * 0.05
            )
    return morphable(net, inputs), inputs


def thinned(moves, each):
    """Some of each operation, spread over its places."""
    found = collections.defaultdict(list)
    for morph in moves:
        found[morph.operation].append(morph)
    return [m for group in found.values() for m in group[:: max(1, -(-len(group) // each))]]


@pytest.mark.parametrize("name", SMALL)
def test_moves_of_standard_networks_keep_the_function(name, settle):
    net, inputs = zoo(name)
    net = settle(net, inputs)
    graph = morphable(net, inputs)
    for morph in thinned(legal_moves(graph), 1):
        check(net, graph, morph, inputs)


@pytest.mark.parametrize("seed", range(5))
def test_moves_of_random_networks_keep_the_function(seed, random_net):
    net, inputs = random_net(seed)
    graph = morphable(net, inputs)
    for morph in thinned(legal_moves(graph), 1):
        check(net, graph, morph, inputs)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", [*NAMES, "resnet8"])
def test_every_move_of_every_standard_network(name, settle):
    net, inputs = zoo(name)
    if "wrn-16-4" in name:
        net, inputs = zoo(name.replace("wrn-16-4", "wrn-16-1"))
    net = settle(net, inputs[:2])
    graph = morphable(net, inputs[:2])
    moves = legal_moves(graph)
    assert {morph.operation for morph in moves} >= {*OPERATIONS} - ({"grow_kernel"} if "mlp" in name else set())
    for morph in moves:
        check(net, graph, morph, inputs[:2])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("start", range(0, 200, 20))
def test_every_move_of_two_hundred_random_networks(start, random_net):
    for seed in range(start, start + 20):
        net, inputs = random_net(seed)
        graph = morphable(net, inputs)
        moves = legal_moves(graph)
        assert moves, seed
        for morph in moves:
            check(net, graph, morph, inputs)


def test_single_precision_is_kept_to_a_hundred_thousandth(settle):
    net, inputs = zoo("lenet")
    net, inputs = settle(net, inputs).float(), inputs.float()
    graph = morphable(net, inputs)
    for morph in thinned(legal_moves(graph), 1):
        check(net, graph, morph, inputs, 1e-5)


@pytest.mark.parametrize("seed", [3, 9])
def test_chains_of_ten_random_moves(seed, random_net):
    net, inputs = random_net(seed)
    graph = start = morphable(net, inputs)
    outline, rng, history = Outline.of(graph), np.random.default_rng(seed), []
    for _ in range(10):
        (morph,) = draw_moves(outline, 1, rng)
        outline = predict(outline, morph)
        history.append(morph)
        graph = apply(graph, morph)
    assert outline.architecture == Outline.of(graph).architecture
    for training in (False, True):
        assert largest_difference(net, graph.module, inputs, training) <= 1e-10
    again = replay(start, history)
    assert again.module.state_dict().keys() == graph.module.state_dict().keys()
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, graph.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "operation"), [*(("lenet", each) for each in OPERATIONS), ("convnet-bn", "deepen_branch")]
)
def test_every_new_weight_learns(name, operation):
    graph, inputs = started(name)
    child = apply(graph, morph := legal_moves(graph, [operation])[0]).module
    old, before = dict(graph.module.named_parameters()), copy.deepcopy(child.state_dict())
    train(child, inputs, 2)
    new = [key for key in before if key in dict(child.named_parameters()) and key not in old]
    grown = [key for key, tensor in old.items() if tensor.shape != before[key].shape and tensor.dim() > 1]
    assert new or grown
    for key in new:
        assert not torch.equal(child.get_parameter(key), before[key]), (morph, key)
    for key in grown:
        fresh, lengths = torch.ones(before[key].shape, dtype=torch.bool), old[key].shape
        sides = [(fresh.shape[axis] - length) // 2 if axis > 1 else 0 for axis, length in enumerate(lengths)]
        fresh[tuple(slice(side, side + length) for side, length in zip(sides, lengths, strict=True))] = False
        changed = child.get_parameter(key) != before[key]
        assert changed[fresh].any(), (morph, key)
    assert largest_difference(graph.module, child, inputs, False) > 1e-6


def train(module, inputs, steps):
    """Steps of plain gradient descent on fixed random targets."""
    module.train()
    targets = torch.randn(len(inputs), 3, generator=torch.Generator().manual_seed(5), dtype=inputs.dtype)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(inputs), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("added", [5, 12])
def test_new_filters_stay_different(added):
    graph, inputs = started("lenet")
    child = apply(graph, Morph("widen", ("features.0",), (added,), 3)).module
    train(child, inputs, 100)
    filters = child.get_submodule("features.0").weight.detach().flatten(1)
    assert len(filters) == 6 + added
    assert len(filters.unique(dim=0)) == len(filters)
    assert float(torch.pdist(filters).min()) > 1e-3


@pytest.mark.parametrize("name", ["convnet-bn"])
def test_running_statistics_of_old_channels_are_those_of_the_parent(name, settle):
    net, inputs = zoo(name)
    graph = morphable(settle(net, inputs), inputs)
    for morph in thinned(legal_moves(graph, ["widen", "add_skip", "deepen_branch"]), 2):
        parent, child = copy.deepcopy(graph.module), apply(graph, morph).module
        parent.train()(inputs)
        child.train()(inputs)
        buffers = dict(child.named_buffers())
        for key, tensor in parent.named_buffers():
            old = buffers[key][: len(tensor)] if tensor.dim() else buffers[key]
            assert torch.allclose(old, tensor, rtol=1e-10, atol=1e-12), (morph, key)


def test_the_loss_at_the_first_step_is_that_of_the_parent():
    graph, inputs = started("convnet-bn")
    child = apply(graph, legal_moves(graph, ["concat_skip"])[0])
    targets = torch.tensor([0, 1, 2, 0])
    losses = [torch.nn.functional.cross_entropy(outputs(each.module, inputs, True), targets) for each in (graph, child)]
    assert float(abs(losses[0] - losses[1])) < 1e-10


def test_shapes_as_planned_are_shapes_as_run(random_net):
    net, inputs = random_net(2)
    graph = morphable(net, inputs)
    for morph in thinned(legal_moves(graph), 3):
        planned = predict(Outline.of(graph), morph)
        child = apply(graph, morph)
        for name, layer in planned.layers.items():
            real = child.module.get_submodule(name)
            assert {k: v.shape for k, v in layer.state_dict().items()} == {
                k: v.shape for k, v in real.state_dict().items()
            }
        values = run_by_node(child, inputs)
        for node in planned.nodes:
            if node.name in values:
                assert tuple(values[node.name].shape) == node.shape, (morph, node)


def run_by_node(graph, inputs):
    """Outputs of the modules of a network, by node."""
    found = {}
    module = copy.deepcopy(graph.module).eval()
    for node in graph.nodes:
        if node.module is not None and node.calls == 1:
            module.get_submodule(node.module).register_forward_hook(
                lambda _, __, value, name=node.name: found.setdefault(name, value)
            )
    module(inputs)
    return found


def test_moves_are_the_same_every_time_and_drawing_them_touches_no_global_generator(random_net):
    net, inputs = random_net(5)
    graph = morphable(net, inputs)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (draw_moves(graph, 8, np.random.default_rng(3)) for _ in range(2))
    child = replay(graph, one[:1])
    assert one == two
    assert legal_moves(graph) == legal_moves(Outline.of(graph))
    assert fingerprint(replay(graph, two[:1]).module) == fingerprint(child.module)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


def test_moves_are_drawn_uniformly_over_families_and_without_repeats():
    outline = Outline.of(started("lenet")[0])
    drawn = draw_moves(outline, 10_000, np.random.default_rng(0))
    assert {(m.operation, m.place, m.numbers) for m in drawn} == {
        (m.operation, m.place, m.numbers) for m in legal_moves(outline)
    }
    assert len(drawn) == len(legal_moves(outline))
    firsts = collections.Counter(
        OPERATIONS[draw_moves(outline, 1, np.random.default_rng(seed))[0].operation].family for seed in range(400)
    )
    assert firsts.keys() == {"deepen", "widen", "skip", "kernel"}
    assert min(firsts.values()) > 60


@pytest.mark.parametrize(
    ("morph", "words"),
    [
        (Morph("widen", ("LAST",), (2,)), ["LAST", "output of the network"]),
        (Morph("widen", ("features.0",), (0,)), ["features.0", "0"]),
        (Morph("widen", ("features.1",), (2,)), ["features.1", "widen one of"]),
        (Morph("widen", ("nothing",), (2,)), ["nothing"]),
        (Morph("deepen", ("features.1",), (2,)), ["odd kernel"]),
        (Morph("deepen", ("features.0",), (1,)), ["end of a block", "features.0"]),
        (Morph("deepen_branch", ("features.1",), (0, 3)), ["hidden width"]),
        (Morph("add_skip", ("features.5", "features.1")), ["before the end"]),
        (Morph("add_skip", ("features.1",)), ["places and numbers"]),
        (Morph("grow_kernel", ("features.0",), (6, 6)), ["even numbers", "features.0"]),
        (Morph("grow_kernel", ("features.1",), (7, 7)), ["convolution", "features.1"]),
        (Morph("shrink", ("features.1",)), ["one of", "shrink"]),
    ],
)
def test_refused_moves_say_why_and_leave_the_network_as_it_was(morph, words):
    graph, _ = started("lenet")
    last = graph.output.inputs[0]
    morph = Morph(morph.operation, tuple(name.replace("LAST", last) for name in morph.place), morph.numbers)
    words = [word.replace("LAST", last) for word in words]
    before = fingerprint(graph.module), str(graph)
    with pytest.raises(GraphError) as raised:
        apply(graph, morph)
    for word in words:
        assert word in str(raised.value)
    assert (fingerprint(graph.module), str(graph)) == before


def test_morphs_are_plain_records():
    for morph in legal_moves(started("lenet")[0]):
        assert Morph.from_json(morph.to_json()) == morph
        assert hash(Morph.from_json(morph.to_json())) == hash(morph)


def test_children_are_plain_modules_that_export():
    start, inputs = started("convnet-bn")
    graph = replay(
        start,
        [Morph("add_skip", ("features.2", "features.6")), Morph("widen", ("features.0",), (16,), 1)],
    )
    module = graph.module.eval()
    exported = torch.export.export(module, (inputs,)).module()
    assert torch.allclose(exported(inputs), module(inputs))
    assert functional_call(module, dict(module.state_dict()), (inputs,)).shape == (4, 3)


def test_no_relu_is_put_behind_what_draws_negative_values():
    """Alpha dropout sets units to a negative value in training; plain dropout keeps what is not negative so."""
    for dropout, behind in ((torch.nn.Dropout(0.3), True), (torch.nn.AlphaDropout(0.3), False)):
        net = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), dropout, torch.nn.Linear(6, 3))
        graph = morphable(net, torch.zeros(2, 5))
        places = {morph.place[0] for morph in legal_moves(graph, ["deepen"])}
        assert ("2" in places) is behind


def test_a_norm_has_more_than_one_value_in_a_group():
    """One input at a time, as latency is measured: a group of one value has no spread."""
    gate = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.GroupNorm(4, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Conv2d(4, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1), torch.nn.Flatten(),
    )  # fmt: skip
    graph = morphable(gate, torch.zeros(2, 2, 6, 6))
    for morph in legal_moves(graph):
        child = apply(graph, morph).module.train()
        assert child(torch.randn(1, 2, 6, 6)).shape == (1, 3), morph

import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError, GraphError, RunConflictError, RunError, ShapeError
from pluriform.graph.channels import channel_groups
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.trace import trace
from pluriform.method import FitContext
from pluriform.narrow.wide import macs_of, read, trained_wide, widened
from pluriform.runs import Run
from pluriform.training.recipe import Recipe

SHORT = Recipe(epochs=2, batch_size=20)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(data, name).batch(torch.arange(120))) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **cut)


def context(run: Run | None = None, seed: int = 0) -> FitContext:
    return FitContext(seed, run, CPU)


@pytest.mark.parametrize(("name", "factor"), [("mlp-bn", 1.5), ("lenet-bn", 2), ("resnet8", 2), ("wrn-10-1", 3)])
def test_unequal_shares_keep_the_function(digits, name, factor):
    net = pf.nets.build(name, digits, seed=1).double().eval()
    x = digits.test.inputs[:8].double()
    wide = widened(trace(net, x), factor, 3, fresh=False, noise=0).eval()
    assert sum(p.numel() for p in wide.parameters()) > 1.3 * sum(p.numel() for p in net.parameters())
    assert (wide(x) - net(x)).abs().max() < 1e-12 * net(x).abs().max()
    assert type(wide) is type(net)


def test_copies_are_read_with_unequal_shares_that_add_up(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)).double()
    wide = widened(read(net, digits_double(digits)), 3, 0, fresh=False, noise=0)
    columns = wide[3].weight.unflatten(1, (5, 3))
    assert torch.allclose(columns.sum(2), net[3].weight)
    shares = columns / net[3].weight[:, :, None]
    assert torch.allclose(shares, shares[:1].expand_as(shares))  # One share a copy.
    assert (shares[0] > 0.03).all()
    assert (shares[0] < 0.9).all()
    assert len(shares[0].flatten().round(decimals=6).unique()) == 15
    assert torch.equal(wide[1].weight, net[1].weight.repeat_interleave(3, 0))  # Producers stay copies.
    noisy = widened(read(net, digits_double(digits)), 3, 0, fresh=False)
    apart = noisy[1].weight - wide[1].weight
    assert float(apart.detach().std()) == pytest.approx(0.01 * float(net[1].weight.detach().std()), rel=0.1)
    assert not torch.equal(noisy[1].weight[0], noisy[1].weight[1])


def digits_double(data: Data) -> Data:
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **{n: Split(s.inputs.double(), s.targets) for n, s in splits.items()})


def test_copies_part_while_they_train(digits):
    """Copies that are read equally and never get noise stay equal for ever; these do not."""
    net = pf.nets.build("mlp", digits, seed=1)
    wide = widened(read(net, digits), 2, 0, fresh=False, noise=0)
    first = next(layer for layer in wide.modules() if isinstance(layer, nn.Linear))
    assert torch.equal(first.weight[0::2], first.weight[1::2])
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    torch.nn.functional.cross_entropy(wide(digits.train.inputs), digits.train.targets).backward()
    optimizer.step()
    assert ((first.weight[0::2] - first.weight[1::2]).abs().amax(1) > 1e-6).float().mean() > 0.5


def test_fresh_layers_are_drawn_for_their_new_widths(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    graph = read(net, digits)
    wide = widened(graph, 4, 7)
    layers = [(old, new) for old, new in zip(net.modules(), wide.modules(), strict=True) if isinstance(old, nn.Linear)]
    for old, new in layers[1:-1]:
        assert new.weight.shape == (4 * old.out_features, 4 * old.in_features)
        bound = new.in_features**-0.5
        assert 0.98 * bound < new.weight.abs().max() <= bound
    assert layers[0][1].in_features == 64
    assert layers[-1][1].out_features == 10
    assert fingerprint(wide) == fingerprint(widened(graph, 4, 7)) != fingerprint(widened(graph, 4, 8))


def test_only_named_groups_widen(digits):
    graph = read(pf.nets.build("resnet8", digits), digits)
    free = [group for group in channel_groups(graph) if not group.fixed]
    wide = channel_groups(read(widened(graph, 2, 0, groups=[free[1].name]), digits))
    sizes = {group.name: group.size for group in wide}
    assert sizes[free[1].name] == 2 * free[1].size
    assert all(sizes[group.name] == group.size for group in free if group is not free[1])


def test_the_wide_network_is_trained_and_counted(digits):
    net = pf.nets.build("mlp", digits, seed=1)
    before = fingerprint(net)
    recipe = dataclasses.replace(SHORT, epochs=12)
    network, cost = trained_wide(net, digits, context(), widen=2, wide=None, recipe=recipe)
    assert fingerprint(net) == before
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    hits = network(digits.test.inputs).argmax(1) == digits.test.targets
    assert hits.float().mean() > 0.6
    assert cost["wide_sample_passes"] == 12 * 120
    assert cost["wide_seconds"] > 0
    weights = sum(p.numel() for p in network.parameters() if p.dim() == 2)
    assert cost["wide_macs"] == weights == macs_of(network, digits.test.inputs[:1])


def test_an_interrupted_wide_training_goes_on(digits, tmp_path, monkeypatch):
    net = pf.nets.build("lenet-bn", digits, seed=1)
    recipe = dataclasses.replace(SHORT, epochs=4)
    whole, _ = trained_wide(net, digits, context(), widen=2, wide=None, recipe=recipe)
    real = Run.write_tensors

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "run", {}) as run:
        trained_wide(net, digits, context(run), widen=2, wide=None, recipe=recipe)
    monkeypatch.setattr(Run, "write_tensors", real)
    with Run(tmp_path / "run", {}) as run:
        again, cost = trained_wide(net, digits, context(run), widen=2, wide=None, recipe=recipe)
    assert fingerprint(again) == fingerprint(whole)
    assert cost["wide_sample_passes"] == 480


@pytest.mark.parametrize("method", [pf.Training(epochs=1), pf.DeepEnsemble(2, pf.Training(epochs=1))])
def test_a_given_form_is_taken_as_it_is(digits, tmp_path, method):
    form = method.fit(pf.nets.build("mlp", digits, seed=1), digits)
    path = str(form.save(tmp_path / "wide"))
    network, cost = trained_wide(pf.nets.build("lenet", digits), digits, context(), widen=2, wide=path, recipe=SHORT)
    assert torch.equal(network(digits.test.inputs), form(digits.test.inputs))
    assert cost["wide_sample_passes"] == cost["wide_seconds"] == 0


def test_a_run_keeps_to_its_given_network(digits, tmp_path):
    net = pf.nets.build("mlp", digits, seed=1)
    path = str(pf.Training(epochs=1).fit(net, digits).save(tmp_path / "wide"))
    with Run(tmp_path / "run", {}) as run:
        trained_wide(net, digits, context(run), widen=2, wide=path, recipe=SHORT)
        trained_wide(net, digits, context(run), widen=2, wide=path, recipe=SHORT)
        pf.Training(epochs=2).fit(net, digits).save(tmp_path / "wide")
        with pytest.raises(RunConflictError, match=r"the wide network \w+ of this run.*another run folder"):
            trained_wide(net, digits, context(run), widen=2, wide=path, recipe=SHORT)


def test_what_cannot_be_is_said(digits, tmp_path):
    net = pf.nets.build("mlp", digits)
    with pytest.raises(GraphError, match=r"channels that can be widened.*fixed.*wide network"):
        only = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        trained_wide(only, digits, context(), widen=2, wide=None, recipe=SHORT)
    with pytest.raises(ConfigError, match=r"a factor above 1; got widen=1"):
        trained_wide(net, digits, context(), widen=1, wide=None, recipe=SHORT)
    with pytest.raises(RunError, match="folder of a form"):
        trained_wide(net, digits, context(), widen=2, wide=str(tmp_path / "none"), recipe=SHORT)
    splits = {name: getattr(digits, name) for name in ("train", "validation", "test")}
    thirds = {name: Split(split.inputs, split.targets % 3) for name, split in splits.items()}
    fewer = dataclasses.replace(digits, classes=("0", "1", "2"), **thirds)
    path = str(pf.Training(epochs=1).fit(pf.nets.build("mlp", fewer), fewer).save(tmp_path / "wide"))
    with pytest.raises(ShapeError, match=r"\(1, 8, 8\), 10 outputs; got .* 3 outputs"):
        trained_wide(net, digits, context(), widen=2, wide=path, recipe=SHORT)

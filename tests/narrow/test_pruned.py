import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import GraphError
from pluriform.graph.channels import ChannelGroups
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.trace import trace
from pluriform.narrow.pruned import PrunedWide, channel_norms, thinned
from pluriform.narrow.wide import widened
from pluriform.runs import Run

SHORT = pf.Training(epochs=2, batch_size=40, learning_rate=0.01)


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(data, name).batch(torch.arange(120))) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **cut)


class Grouped(nn.Module):
    """A grouped and a depthwise convolution, a norm over groups, a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.split = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.each(self.split(x)).relu()
        return self.head(x.mean((2, 3)))


def network(name: str, data: Data) -> nn.Module:
    torch.manual_seed(1)
    return Grouped() if name == "grouped" else pf.nets.build(name, data, seed=1)


@pytest.mark.parametrize(("name", "factor"), [("mlp-bn", 1.5), ("lenet", 2), ("resnet8", 2), ("grouped", 3)])
def test_what_is_left_has_the_users_shapes_and_runs(digits, name, factor):
    net, x = network(name, digits).eval(), digits.test.inputs[:4]
    graph = trace(net, x)
    wide = widened(graph, factor, 3)
    before = fingerprint(wide)
    made = thinned(trace(wide.eval(), x), graph)
    net.load_state_dict(made.state_dict(), strict=True)
    assert torch.allclose(net(x), made.eval()(x), atol=1e-5)
    assert fingerprint(wide) == before


def test_the_channels_of_largest_norms_stay(digits):
    """By hand, on two layers: rows with their biases, in their order, and the columns that read them."""
    thin = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    x = digits.test.inputs[:2]
    with torch.no_grad():
        wide[1].weight[4] *= 5
        wide[1].bias[1] = 30.0
        wide[1].weight[2] *= 0
        wide[1].weight[0] *= 3
    made = thinned(trace(wide, x), trace(thin, x))
    assert torch.equal(made[1].weight, wide[1].weight[[0, 1, 4]])
    assert torch.equal(made[1].bias, wide[1].bias[[0, 1, 4]])
    assert torch.equal(made[3].weight, wide[3].weight[:, [0, 1, 4]])
    assert torch.equal(made[3].bias, wide[3].bias)
    found = ChannelGroups.of(trace(wide, x))
    expected = (wide[1].weight.square().sum(1) + wide[1].bias.square()).sqrt()
    assert torch.allclose(channel_norms(found, "1").float(), expected)


def test_norms_of_a_residual_group_gather_all_its_producers(digits):
    net = network("resnet8", digits)
    found = ChannelGroups.of(trace(net.eval(), digits.test.inputs[:2]))
    group = max(found.groups, key=lambda group: len(group.producers))
    assert len(group.producers) > 1
    layers = [net.get_submodule(name) for name in group.producers]
    squares = sum(layer.weight.square().flatten(1).sum(1) for layer in layers)
    squares = squares + sum(layer.bias.square() for layer in layers if layer.bias is not None)
    assert torch.allclose(channel_norms(found, group.name).float(), squares.sqrt())


def test_each_group_of_a_convolution_and_of_a_norm_keeps_as_many(digits):
    net, x = network("grouped", digits).eval(), digits.test.inputs[:2]
    graph = trace(net, x)
    wide = widened(graph, 2, 0)
    with torch.no_grad():
        wide.stem.weight[:8] *= 100  # The first half would take all places.
    made = thinned(trace(wide.eval(), x), graph)
    assert made.split.groups == 2
    assert made.norm.num_groups == 4
    rows = [int((wide.stem.weight == row).flatten(1).all(1).nonzero()[0, 0]) for row in made.stem.weight]
    assert [row // 4 for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_pruned_network_is_the_users_and_learns(digits):
    net = network("lenet", digits)
    method = PrunedWide(
        training=dataclasses.replace(SHORT, epochs=10), wide_training=dataclasses.replace(SHORT, epochs=6)
    )
    form = method.fit(net, digits)
    assert type(form.module) is type(net)
    assert {k: t.shape for k, t in form.module.state_dict().items()} == {
        k: t.shape for k, t in net.state_dict().items()
    }
    assert all(parameter.requires_grad for parameter in form.module.parameters())
    hits = form.predict(digits.test.inputs).mean.argmax(1) == digits.test.targets
    assert hits.float().mean() > 0.5
    assert all(wide == 2 * thin for wide, thin in form.facts["groups"].values())
    other = network("lenet", digits)
    with torch.no_grad():
        other.get_parameter(next(name for name, _ in other.named_parameters())).add_(1)
    again = method.fit(other, digits)
    assert fingerprint(again.module) == fingerprint(form.module)  # The given weights count for nothing.


def test_it_may_learn_from_the_wide_network_too(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    plain, taught = (
        PrunedWide(alpha=alpha, training=SHORT, wide_training=SHORT).fit(net, digits) for alpha in (0, 0.9)
    )
    assert fingerprint(plain.module) != fingerprint(taught.module)


@pytest.mark.parametrize("writes", [1, 4, 7])
def test_an_interrupted_fit_goes_on(digits, tmp_path, monkeypatch, writes):
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SECONDS", 0.0)  # After every step.
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SHARE", 1e9)
    method = PrunedWide(alpha=0.5, training=SHORT, wide_training=SHORT)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    whole = method.fit(net, digits, seed=1)
    real, count = Run.write_tensors, []

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(net, digits, seed=1, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    assert fingerprint(method.fit(net, digits, seed=1, run=tmp_path / "run")) == fingerprint(whole)


def test_networks_that_do_not_line_up_are_refused(digits):
    x = digits.test.inputs[:2]
    thin = trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)), x)
    narrow = trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)), x)
    with pytest.raises(GraphError, match=r"a group 1 of at least 12 channels; got 9 channels"):
        thinned(narrow, thin)
    other = trace(nn.Sequential(nn.Linear(8, 20), nn.Flatten(), nn.Linear(160, 10)), x)
    with pytest.raises(GraphError, match=r"a group 1 of at least 12 channels; got no such group.*same architecture"):
        thinned(other, thin)

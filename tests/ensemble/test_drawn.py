"""An ensemble kept as seeds: draws, predictions in parts of the memory, materialised members, files."""

import copy
import json
import math

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.signature import Signature
from pluriform.ensemble import drawn as drawn_file
from pluriform.ensemble.calling import Calling
from pluriform.ensemble.drawn import Drawn, draw_seeds
from pluriform.errors import ConfigError, GraphError
from pluriform.graph.parameters import weights_of
from pluriform.training.seeds import derive_seed

CLASSES = Signature("toy", "classification", (3, 4, 4), 3, ("a", "b", "c"))
NUMBERS = Signature("toy", "regression", (3, 4, 4), 2)


class Gaussian(nn.Module):
    """Independent normal weights around those of a network; counts what it draws."""

    def __init__(self, network, spread=0.3, only=""):
        super().__init__()
        self.names = [name for name, _ in network.named_parameters() if name.startswith(only)]
        own = dict(network.named_parameters())
        self.means = nn.ParameterList([own[name].detach().clone() for name in self.names])
        self.spread, self.largest = spread, 0

    def draw(self, seeds):
        self.largest = max(self.largest, len(seeds))
        members = []
        for seed in seeds:
            noise = torch.Generator().manual_seed(seed)
            members.append([mean + self.spread * torch.randn(mean.shape, generator=noise) for mean in self.means])
        return {name: torch.stack(parts) for name, parts in zip(self.names, zip(*members, strict=True), strict=True)}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(48, 3, bias=False)
        self.outside = nn.Linear(3, 3, bias=False)
        self.third = nn.Linear(3, 3, bias=False)
        self.third.weight = self.outside.weight

    def forward(self, x):
        return self.third(self.outside(self.inside(x.flatten(1))).tanh())


def conv(outputs=3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, outputs)
    )


def mlp(outputs=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh(), nn.Linear(6, outputs))


def images(count=9):
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def drawn(network, members=7, signature=CLASSES, only="", **more):
    calibration = torch.randn(300, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    source = Gaussian(network, only=only)
    return Drawn(network, source, draw_seeds(members, 5), signature, calibration=calibration, **more).eval()


NETWORKS = {"mlp": mlp, "conv": conv, "tied": Tied}


@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_the_materialised_modules(name):
    """And their state loads strictly in the user's class, which then predicts the same."""
    form, x = drawn(NETWORKS[name]()), images()
    found = form.predict(x)
    for i in range(form.size):
        plain = NETWORKS[name]().eval()
        plain.load_state_dict(form.materialize(i).state_dict(), strict=True)
        torch.testing.assert_close(plain(x).softmax(-1), found.members[i], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.mean, found.members.mean(0))
    torch.testing.assert_close(form(x).softmax(-1), found.mean)


def test_only_some_weights_are_drawn():
    network = conv()
    form, x = drawn(network, only="5."), images()
    found = form.predict(x).members
    for i in range(form.size):
        member = form.materialize(i)
        assert torch.equal(member[0].weight, network[0].weight)
        assert not torch.equal(member[5].weight, network[5].weight)
        torch.testing.assert_close(member(x).softmax(-1), found[i], rtol=1e-6, atol=1e-6)


def test_statistics_of_each_member_equal_a_recalibration_by_hand():
    form = drawn(conv())
    for i in (0, 6):
        member = form.materialize(i)
        with torch.no_grad():
            parts = [member[0](part) for part in form.calibration.split(128)]
        mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
        variance = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in parts]).mean(0)
        torch.testing.assert_close(member[1].running_mean, mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(member[1].running_var, variance, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(form.materialize(0)[1].running_mean, form.materialize(1)[1].running_mean)


def test_shared_statistics_are_those_of_the_template():
    network = conv()
    network[1].running_mean.fill_(0.5)
    form = drawn(network, norms="shared")
    assert torch.equal(form.materialize(3)[1].running_mean, torch.full((4,), 0.5))


def test_draws_are_nested_and_other_seeds_differ():
    form, x = drawn(conv()), images()
    many, few, one = (form.draw(k, seed=4) for k in (6, 3, 1))
    assert many.size == 6
    assert many.seeds[:3] == few.seeds
    torch.testing.assert_close(many.predict(x).members[:3], few.predict(x).members, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(many.predict(x).members[:1], one.predict(x).members, rtol=1e-6, atol=1e-6)
    assert set(many.seeds).isdisjoint(form.draw(6, seed=5).seeds)
    assert not torch.allclose(many.predict(x).members, form.draw(6, seed=5).predict(x).members, atol=1e-3)
    assert len(set(draw_seeds(1000, 0))) == 1000


def test_drawing_leaves_the_form_as_it_was():
    form, x = drawn(conv()), images()
    before, state = form.predict(x).members, copy.deepcopy(form.state_dict())
    form.draw(3, 1).predict(x)
    form.materialize(2)
    form.train()
    form.predict(x)
    assert form.training
    assert torch.equal(form.predict(x).members, before)
    assert all(torch.equal(tensor, form.state_dict()[name]) for name, tensor in state.items())


def test_other_members_keep_what_the_form_knows():
    form = drawn(conv(), history={"loss": [1.0]}, cost={"steps": 2})
    form.batch_size, form.origin, form.choices = 3, {"label": "x"}, {"head": {}}
    made = form.draw(2)
    names = ("batch_size", "origin", "choices", "history", "cost", "norms", "signature")
    assert all(getattr(made, name) == getattr(form, name) for name in names)


def test_order_and_companions_do_not_matter():
    form, x = drawn(conv()), images()
    members = form.predict(x).members
    turned = form.with_seeds(form.seeds[::-1]).predict(x).members
    torch.testing.assert_close(turned.flip(0), members, rtol=1e-6, atol=1e-6)
    for i in (0, 3):
        torch.testing.assert_close(
            form.with_seeds([form.seeds[i]]).predict(x).members[0], members[i], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["vmap", "chunk", "loop"])
@pytest.mark.parametrize("kept", [True, False])
def test_memory_bounds_change_no_prediction_and_no_gradient(name, way, kept, monkeypatch):
    """Against the materialised members; with gradients, activations are computed again part by part."""
    form, x = drawn(NETWORKS[name](), members=5), images(4).requires_grad_()
    expected = torch.stack([form.materialize(i)(x).softmax(-1) for i in range(5)]).mean(0).log()
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    if not kept:
        monkeypatch.setattr(drawn_file, "KEPT_BYTES", 0)
    monkeypatch.setattr(drawn_file, "by_count", lambda *_: Calling(way, {"vmap": 5, "chunk": 2, "loop": 1}[way]))
    found = form(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], slope, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(form(x), expected, rtol=1e-5, atol=1e-5)
    assert all(parameter.grad is None for parameter in form.parameters())


def test_weights_that_are_not_kept_exist_in_parts(monkeypatch):
    form, x = drawn(mlp(), members=9), images()
    expected = form.predict(x).members
    size = sum(p.numel() * 4 for p in form.template.parameters())
    monkeypatch.setattr(drawn_file, "KEPT_BYTES", 9 * size - 1)
    monkeypatch.setattr(drawn_file, "PART_BYTES", 2 * size)
    again = drawn(mlp(), members=9)
    again.source.largest = 0
    torch.testing.assert_close(again.predict(x).members, expected, rtol=1e-6, atol=1e-6)
    assert again.source.largest == 2
    torch.testing.assert_close(again.member_weights()["1.weight"], form.member_weights()["1.weight"])


def test_member_weights_are_the_networks():
    form = drawn(conv())
    stacked = form.member_weights()
    for i in (0, 6):
        own = weights_of(form.materialize(i))
        assert all(torch.equal(tensor[i], own[name]) for name, tensor in stacked.items())
    assert set(stacked) == set(weights_of(form.template))


def test_save_and_load(tmp_path):
    form, x = drawn(conv(), history={"loss": [1.0, 0.5]}, cost={"steps": 3}), images()
    form.choices = {"head": {"mode": "full"}}
    form.predict(x)
    again = pf.load_form(form.save(tmp_path / "form"))
    assert torch.equal(again.predict(x).members, form.predict(x).members)
    assert again.seeds == form.seeds
    assert (again.history, again.cost, again.choices) == (form.history, form.cost, form.choices)
    torch.testing.assert_close(again.draw(2, 8).predict(x).members, form.draw(2, 8).predict(x).members)
    assert again.template.training is False
    json.dumps(again.choices)


def test_new_state_is_seen_at_once():
    """Weights that were drawn before are not those of the state that is loaded."""
    form, other, x = drawn(mlp()), drawn(mlp()), images()
    with torch.no_grad():
        for mean in other.source.means:
            mean += 1
    form.predict(x)
    form.load_state_dict(other.state_dict())
    assert torch.equal(form.predict(x).members, other.predict(x).members)


def test_a_form_of_another_type_draws_again():
    form, x = drawn(mlp()), images()
    before = form.predict(x).members
    form.double()
    found = form.predict(x.double()).members
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), before, rtol=1e-5, atol=1e-5)


def test_a_form_first_used_in_inference_mode_has_gradients_later():
    form, x = drawn(conv()), images()
    with torch.inference_mode():
        made = form.draw(3)
        made.predict(x)
        materialized = made.materialize(0)
    x.requires_grad_()
    made(x).square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert materialized(x).requires_grad


def test_a_copy_is_a_form_of_its_own():
    form, x = drawn(conv()), images()
    before = form.predict(x).members
    made = copy.deepcopy(form)
    with torch.no_grad():
        for mean in made.source.means:
            mean.zero_()
    assert torch.equal(form.with_seeds(form.seeds).predict(x).members, before)
    assert torch.equal(copy.deepcopy(form).predict(x).members, before)


def test_regression_adds_the_spread_of_the_members_to_the_noise():
    form, x = drawn(mlp(2), signature=NUMBERS, noise=torch.tensor([0.5, 2.0])), images()
    found = form.predict(x)
    torch.testing.assert_close(found.mean, found.members.mean(0))
    expected = (found.members - found.mean).square().mean(0) + torch.tensor([0.5, 2.0])
    torch.testing.assert_close(found.variance, expected)
    torch.testing.assert_close(form(x), found.mean)
    torch.testing.assert_close(form.draw(2).noise, form.noise)
    quiet = drawn(mlp(2), signature=NUMBERS)
    torch.testing.assert_close(quiet.predict(x).variance, expected - torch.tensor([0.5, 2.0]))


def test_logits_stay_finite_where_probabilities_underflow():
    form = drawn(mlp())
    with torch.no_grad():
        for mean in form.source.means:
            mean *= 1000
    assert form(images()).isfinite().all()


@pytest.mark.parametrize("k", [0, -1])
def test_no_draws_are_refused(k):
    with pytest.raises(ConfigError, match=r"at least 1 draw.*ask for one network or more"):
        drawn(mlp()).draw(k)


def test_repeated_seeds_and_none_are_refused():
    form = drawn(mlp())
    with pytest.raises(ConfigError, match=r"different seeds.*2 repeated seeds"):
        form.with_seeds([1, 2, 1, 2])
    with pytest.raises(ConfigError, match=r"different seeds, at least one.*none"):
        form.with_seeds([])


@pytest.mark.parametrize("i", [7, -8, 100])
def test_members_out_of_range_are_refused(i):
    with pytest.raises(ConfigError, match=rf"a member from 0 to 6.*{i}"):
        drawn(mlp()).materialize(i)


def test_counting_from_the_end():
    form = drawn(mlp())
    assert torch.equal(form.materialize(-1)[1].weight, form.materialize(6)[1].weight)


@pytest.mark.parametrize("other", [lambda: mlp(2), conv, lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 3))])
def test_another_architecture_is_not_filled(other):
    form, module = drawn(mlp()), other().train()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(GraphError, match=r"the architecture of Sequential.*differs in"):
        form.materialize(0, module)
    assert module.training
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in before.items())


def test_a_given_module_is_filled_in_place():
    form, module = drawn(conv()), conv()
    made = form.materialize(4, module)
    assert made is module
    assert not made.training
    torch.testing.assert_close(made(images()).softmax(-1), form.predict(images()).members[4], rtol=1e-6, atol=1e-6)


def test_seeds_are_kept_as_they_are():
    seeds = draw_seeds(3, 11)
    assert seeds == tuple(derive_seed(11, "draw", i) for i in range(3))
    assert draw_seeds(2, 11) == seeds[:2]
    assert math.log2(max(seeds)) < 64

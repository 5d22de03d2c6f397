import copy
import dataclasses
import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import pluriform as pf
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.langevin import Langevin
from pluriform.energy.model import EnergyModel
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart
from pluriform.errors import ConfigError, ShapeError
from pluriform.training.recipe import Recipe


@pytest.fixture(scope="module", params=[False, True], ids=["joint", "conditional"])
def form(request, digits):
    network = pf.nets.build("mlp", digits, seed=0)
    method = pf.JEM(Recipe(epochs=2), sampler=Langevin(3, 0.5, 0.01), buffer_size=100, conditional=request.param)
    return method.fit(network, digits)


@pytest.fixture(scope="module")
def joint(digits):
    network = pf.nets.build("mlp", digits, seed=0)
    return pf.JEM(Recipe(epochs=2), sampler=Langevin(3, 0.5, 0.01), buffer_size=100).fit(network, digits)


def made(module, data, classes=3, sampler=Langevin(5, 0.2, 0.0), conditional=False, size=30):  # noqa: B008
    """A model of a module that was not fitted."""
    space = Space.of(data)
    start = UniformStart(space, data.input_shape)
    buffer = ReplayBuffer(start, size, classes, torch.Generator().manual_seed(0))
    return EnergyModel(module, data.signature, buffer, sampler, conditional).eval()


@pytest.fixture
def bounded(table):
    return dataclasses.replace(table, bounds=(-1e4, 1e4))


def test_predictions_are_softmax_and_logsumexp_of_the_module(form, digits):
    x = digits.test.inputs[:40]
    logits = form.module(x)
    found = form.predict(x)
    assert torch.allclose(found.mean, logits.softmax(-1), atol=1e-6)
    assert torch.allclose(found.score, logits.logsumexp(-1), atol=1e-5)
    assert not found.score.requires_grad


def test_approximate_mass_is_that_of_each_input_alone(form, digits):
    x = digits.test.inputs[: 300 if len(digits.test) > 300 else 100]
    found = form.input_scores(x)["approximate_mass"]
    assert found.shape == (len(x),)
    for place in (0, 17, 99):
        jacobian = torch.autograd.functional.jacobian(lambda one: form.module(one[None]).logsumexp(-1), x[place])
        assert float(found[place]) == pytest.approx(-float(jacobian.norm()), rel=1e-4)
    assert all(p.requires_grad for p in form.parameters())
    assert all(p.grad is None for p in form.parameters())


def test_scores_do_not_depend_on_mode_neighbours_or_global_state(digits):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))
    form = made(network, digits, 10).train()
    x = digits.test.inputs
    first, mass = form.predict(x), form.input_scores(x)["approximate_mass"]
    torch.manual_seed(3)
    second = form.predict(x[:7])
    assert torch.allclose(first.score[:7], second.score, atol=1e-5)
    assert torch.allclose(mass[:7], form.input_scores(x[:7])["approximate_mass"], atol=1e-5)
    assert all(part.training for part in form.modules())


@pytest.mark.parametrize(
    "asked",
    [{}, {"label": 3}, {"fresh": True}, {"label": 3, "fresh": True}, {"steps": 0}, {"fresh": True, "steps": 7}],
    ids=str,
)
def test_samples_are_those_of_the_seed(form, asked):
    state, before = torch.get_rng_state(), {name: t.clone() for name, t in form.state_dict().items()}
    first = form.sample(6, seed=4, **asked)
    torch.manual_seed(123)
    form.train()
    again = form.sample(6, seed=4, **asked)
    assert all(part.training for part in form.modules())
    form.eval()
    torch.set_rng_state(state)
    assert torch.equal(first, again)
    assert not torch.equal(first, form.sample(6, seed=5, **asked))
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (6, 1, 8, 8)
    assert not first.requires_grad
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert all(torch.equal(before[name], tensor) for name, tensor in form.state_dict().items())
    assert all(p.requires_grad for p in form.parameters())


def test_chains_of_the_buffer_are_those_of_their_class(form):
    drawn = form.sample(5, label=7, steps=0, fresh=False)
    block = form.buffer.samples[70:80].flatten(1)
    assert all(bool((block == one).all(1).any()) for one in drawn.flatten(1))
    whole = form.sample(100, steps=0, fresh=False)
    assert torch.equal(whole.flatten(1).sort(0).values, form.buffer.samples.flatten(1).sort(0).values)


def test_new_chains_begin_where_the_buffer_has_none(form):
    kept = form.buffer.samples.flatten(1)

    def known(drawn):
        return bool((drawn.flatten(1)[:, None] == kept).all(2).any())

    assert known(form.sample(3, steps=0))
    assert not known(form.sample(101, steps=0))
    assert known(form.sample(3, label=2, steps=0)) == form.conditional


def test_what_cannot_be_drawn(form):
    for bad in ({"n": 0}, {"n": 3, "label": 10}, {"n": 3, "label": -1}, {"n": -2}):
        with pytest.raises(ConfigError, match="n of at least 1 and a label in 0..9"):
            form.sample(**bad)
    with pytest.raises(ConfigError, match="at most 100 chains"):
        form.sample(101, fresh=False)
    with pytest.raises(ConfigError, match="at most 10 chains"):
        form.sample(11, label=3, fresh=False)
    with pytest.raises(ConfigError, match="steps"):
        form.sample(3, steps=-1)


class Hills(nn.Module):
    """Logits of three narrow hills in the plane."""

    def __init__(self):
        super().__init__()
        corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]) * torch.tensor([1.0, 100.0])
        self.corners = nn.Parameter(corners + torch.tensor([5.0, -50.0]))

    def forward(self, x):
        moved = (x[:, None] - self.corners) / torch.tensor([1.0, 100.0])
        return -moved.square().sum(2) / 2


def test_samples_of_a_known_density(table):
    """Three hills of unit variance: a mixture when drawn jointly, one hill when drawn by class."""
    space = Space.of(table)
    buffer = ReplayBuffer(pf_start(table, space), 3000, 3, torch.Generator().manual_seed(0))
    # Steps count in units of standard deviations of the data, of which a hill has about half a one.
    model = EnergyModel(Hills(), table.signature, buffer, Langevin.at_temperature(0.01, steps=300)).eval()
    drawn = (model.sample(1500, label=1, fresh=True, steps=300) - torch.tensor([5.0, -50.0])) / torch.tensor(
        [1.0, 100.0]
    )
    assert torch.allclose(drawn.mean(0), torch.tensor([4.0, 0.0]), atol=0.15)
    assert torch.allclose(drawn.std(0), torch.ones(2), atol=0.1)
    mixed = (model.sample(1500, steps=300) - torch.tensor([5.0, -50.0])) / torch.tensor([1.0, 100.0])
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    shares = torch.bincount(torch.cdist(mixed, corners).argmin(1), minlength=3) / 1500
    assert float((shares - 1 / 3).abs().max()) < 0.06


def pf_start(data, space):
    from pluriform.energy.start import fitted_start

    return fitted_start(data, space)


def test_refining_climbs_without_changing_what_it_was_given(joint, digits):
    quiet = EnergyModel(joint.module, joint.signature, joint.buffer, Langevin(20, 0.1, 0.0)).eval()
    x = digits.test.inputs[:20]
    kept = x.clone()
    moved = quiet.refine(x)
    assert torch.equal(x, kept)
    assert moved.shape == x.shape
    assert bool((quiet.predict(moved).score >= quiet.predict(x).score - 1e-4).all())
    assert torch.equal(quiet.refine(x, steps=0), x)
    assert torch.equal(joint.refine(x, seed=3), joint.refine(x, seed=3))
    assert not torch.equal(joint.refine(x, seed=3), joint.refine(x, seed=4))


def test_refining_other_shapes_is_refused(joint):
    with pytest.raises(ShapeError, match=r"\(batch, 1, 8, 8\)"):
        joint.refine(torch.rand(2, 3, 5))
    with pytest.raises(ShapeError, match=r"\(batch, 1, 8, 8\)"):
        joint.input_scores(torch.rand(2, 3, 5))


def test_it_comes_back_from_disk(form, digits, tmp_path):
    again = pf.load_form(form.save(tmp_path / "form"))
    x = digits.test.inputs[:10]
    assert torch.equal(form.predict(x).score, again.predict(x).score)
    for asked in ({}, {"label": 3}, {"fresh": True, "steps": 5}):
        assert torch.equal(form.sample(4, seed=2, **asked), again.sample(4, seed=2, **asked))
    assert torch.equal(form.refine(x), again.refine(x))
    assert (again.sampler, again.conditional, again.signature) == (form.sampler, form.conditional, form.signature)
    assert (again.cost, again.history, again.events) == (form.cost, form.history, form.events)
    assert torch.equal(form.buffer.touched, again.buffer.touched)
    assert again.buffer.space.bounds == form.buffer.space.bounds


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_forms_of_tables_come_back_too(table, tmp_path, start):
    network = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 3))
    form = pf.JEM(Recipe(epochs=1), sampler=Langevin(2, 0.1, 0.1), buffer_size=90, start=start).fit(network, table)
    again = pf.load_form(form.save(tmp_path / "form"))
    assert torch.equal(form.sample(95, seed=1), again.sample(95, seed=1))
    assert again.buffer.space.bounds is None


def test_a_copy_is_a_form_of_its_own(form):
    other = copy.deepcopy(form)
    assert torch.equal(form.sample(3), other.sample(3))
    with torch.no_grad():
        next(other.module.parameters()).add_(1.0)
    assert not torch.equal(form.sample(3, steps=5), other.sample(3, steps=5))


def test_many_samples_are_drawn_in_parts(bounded):
    model = made(Hills(), bounded, sampler=Langevin(4, 0.01, 0.0))
    assert len(model.sample(700, fresh=True, steps=4)) == 700
    x = bounded.train.inputs
    assert torch.allclose(model.refine(x)[270:], model.refine(x[270:]), rtol=1e-5)


def test_a_score_beside_scikit_learn(joint, digits):
    noise = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    inside, outside = joint.predict(digits.test.inputs).score, joint.predict(noise).score
    labels = [1] * 100 + [0] * 100
    area = roc_auc_score(labels, torch.cat([inside, outside]).numpy())
    pairs = (inside[:, None] > outside).double().mean() + (inside[:, None] == outside).double().mean() / 2
    assert area == pytest.approx(float(pairs), abs=1e-9)
    assert math.isfinite(area)

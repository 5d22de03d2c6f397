"""The worst case of a suite: never above a member, the same after a kill, judged by asking the form again."""

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.attacks import auto_attack as module
from pluriform.attacks.attack import attack
from pluriform.attacks.auto_attack import CLEAN, auto_attack
from pluriform.attacks.objective import margin
from pluriform.attacks.suite import Member, Suite
from pluriform.attacks.threat import Threat
from pluriform.errors import ConfigError, LabelError, NonFiniteError, RunConflictError

THREAT = Threat("linf", 0.15, (0.0, 1.0))
SMALL = Suite(
    "small",
    (Member("fgsm"), Member("pgd", {"steps": 5}), Member("pgd", {"steps": 10, "restarts": 2, "random_start": True})),
)


@pytest.fixture(scope="module")
def digits():
    return pf.load("digits", seed=0)


@pytest.fixture(scope="module")
def form(digits):
    return pf.Training(epochs=15, learning_rate=3e-3).fit(pf.nets.build("mlp", digits), digits, seed=0)


@pytest.fixture(scope="module")
def batch(digits):
    return digits.test.batch(torch.arange(120))


def correct(form, inputs, labels):
    return form.predict(inputs).mean.argmax(1) == labels


def test_the_union_is_what_its_members_leave(form, batch):
    x, y = batch
    worst = auto_attack(form, x, y, THREAT, SMALL, seed=3)
    alone = [correct(form, attack(form, x, y, THREAT, m.method, 3, **m.options), y) for m in SMALL.members]
    standing = correct(form, x, y) & alone[0] & alone[1] & alone[2]
    assert torch.equal(worst.standing, standing)
    assert 0 < worst.robust_accuracy < min(float(left.double().mean()) for left in alone[:1])
    assert worst.clean_accuracy == float(correct(form, x, y).double().mean())


def test_every_sample_knows_what_broke_it(form, batch):
    x, y = batch
    worst = auto_attack(form, x, y, THREAT, SMALL, seed=3)
    assert torch.equal(worst.by == CLEAN, ~correct(form, x, y))
    assert torch.equal(correct(form, worst.inputs, y), worst.standing)
    assert torch.equal(worst.inputs[worst.by < 0], x[worst.by < 0])
    stages = worst.stages
    assert [stage.attack for stage in stages] == ["fgsm", "pgd", "pgd"]
    assert stages[0].attacked == int((worst.by != CLEAN).sum())
    assert stages[1].attacked == stages[0].attacked - stages[0].broken
    assert sum(stage.broken for stage in stages) == int((worst.by >= 0).sum()) > 0
    assert all(stage.seconds > 0 for stage in stages)
    THREAT.check(worst.inputs, x)


def test_a_batch_is_its_parts(form, batch):
    x, y = batch
    assert torch.equal(
        auto_attack(form, x, y, THREAT, SMALL).by, auto_attack(form, x, y, THREAT, SMALL, batch_size=7).by
    )


@pytest.mark.parametrize("calls", [1, 4, 6])
def test_a_killed_call_goes_on_to_the_same_result(form, batch, tmp_path, monkeypatch, calls):
    x, y = batch
    whole = auto_attack(form, x, y, THREAT, SMALL, batch_size=25)
    made, plain = [], module.perturb

    def killed(*arguments, **options):
        if len(made) == calls:
            raise KeyboardInterrupt
        made.append(1)
        return plain(*arguments, **options)

    monkeypatch.setattr(module, "perturb", killed)
    with pytest.raises(KeyboardInterrupt):
        auto_attack(form, x, y, THREAT, SMALL, batch_size=25, run=tmp_path / "run")
    monkeypatch.setattr(module, "perturb", lambda *a, **o: made.append(1) or plain(*a, **o))
    resumed = auto_attack(form, x, y, THREAT, SMALL, batch_size=25, run=tmp_path / "run")
    assert torch.equal(resumed.by, whole.by)
    assert torch.equal(resumed.inputs, whole.inputs)
    expected = sum(-(-stage.attacked // 25) for stage in whole.stages)
    assert len(made) <= expected + 2  # Nothing was done twice; the rest of a stage may be cut into other batches.
    count = len(made)
    auto_attack(form, x, y, THREAT, SMALL, batch_size=25, run=tmp_path / "run")
    assert len(made) == count


class Seen(nn.Module):
    """A form behind a change of its outputs."""

    def __init__(self, form, change):
        super().__init__()
        self.form, self.change = form, change

    def forward(self, x):
        return self.change(self.form(x))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda out: out, []),
        (lambda out: out.softmax(-1), ["distribution"]),
        (lambda out: out + torch.randn_like(out), ["random"]),
        (lambda out: out.round() + 0 * out, ["zero"]),
    ],
)
def test_what_speaks_against_the_figure_is_in_the_result(form, batch, change, kinds):
    worst = auto_attack(Seen(form, change), *batch, THREAT, Suite("one", (Member("fgsm"),)))
    assert [flag.kind for flag in worst.flags if flag.masked] == kinds


def test_a_blind_search_that_finds_more_is_a_reason_to_look(form, batch):
    search = Member("square", {"queries": 60})
    found = auto_attack(form, *batch, THREAT, Suite("two", (Member("apgd-ce", {"steps": 0}), search)))
    (flag,) = found.flags
    assert (flag.kind, flag.masked) == ("blind", False)
    assert f"breaks {found.stages[1].broken} samples" in flag.words
    assert auto_attack(form, *batch, THREAT, Suite("one", (search,))).flags == ()


def test_the_state_of_another_call_is_refused(form, batch, tmp_path):
    x, y = batch
    auto_attack(form, x, y, THREAT, SMALL, run=tmp_path / "run")
    with pytest.raises(RunConflictError, match="seed"):
        auto_attack(form, x, y, THREAT, SMALL, seed=1, run=tmp_path / "run")
    with pytest.raises(RunConflictError, match="samples"):
        auto_attack(form, 1 - x, y, THREAT, SMALL, run=tmp_path / "run")


def test_without_a_radius_nothing_moves(form, batch):
    x, y = batch
    worst = auto_attack(form, x, y, Threat("linf", 0.0, (0.0, 1.0)), SMALL)
    assert torch.equal(worst.inputs, x)
    assert worst.robust_accuracy == worst.clean_accuracy


def test_bad_arguments_are_refused(form, batch):
    x, y = batch
    with pytest.raises(ConfigError, match="batch_size >= 1"):
        auto_attack(form, x, y, THREAT, SMALL, batch_size=0)
    with pytest.raises(ConfigError, match="8/255"):
        auto_attack(form, x, y, Threat("linf", 8, (0.0, 1.0)), SMALL)
    with pytest.raises(LabelError):
        auto_attack(form, x, y + 10, THREAT, SMALL)


def test_a_suite_that_cannot_run_is_refused_before_it_starts(form, batch, tmp_path):
    for name in ("apgd", "autoattack"):
        with pytest.raises(ConfigError, match=f"expected attacks of apgd-ce, .*; got '{name}'"):
            auto_attack(form, *batch, THREAT, Suite("mine", (Member(name),)))
    own = Suite("mine", (Member("pgd", {"objective": margin}),))
    with pytest.raises(ConfigError, match="expected options that a run can note; got a function as objective"):
        auto_attack(form, *batch, THREAT, own, run=tmp_path / "run")
    assert auto_attack(form, *batch, THREAT, own).robust_accuracy <= 1


def test_a_form_that_gives_nan_for_some_input_is_refused(form, batch):
    class Torn(nn.Module):
        def forward(self, x):
            return form(x).where(x[:, 0, 0, :1] < 0.9, torch.nan)

    x, y = batch[0].clone(), batch[1]
    x[:, 0, 0, 0] = 0
    x[11, 0, 0, 0] = 1
    with pytest.raises(NonFiniteError, match="expected finite logits; got NaN or infinity .*auto_attack of Torn"):
        auto_attack(Torn(), x, y, THREAT, SMALL)


def test_a_module_of_two_classes_gets_the_reduced_suite():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = torch.rand(30, 1, 4, 4)
    y = net(x).argmax(1)
    logits, weights = net(x).detach(), (net[1].weight[1] - net[1].weight[0]).detach()
    distance = (logits[:, 1] - logits[:, 0]).abs() / weights.abs().sum()  # Of the plane; the box only adds to it.
    eps = float(distance.median()) + 1e-4
    worst = auto_attack(net, x, y, Threat("linf", eps, (0.0, 1.0)))
    assert worst.suite.note == "2 classes: without apgd-t; fab for fab-t"
    assert bool(worst.standing[distance > eps].all())
    assert int((worst.by >= 0).sum()) > 0

"""Every attack: legal results, no side effects, independence of batch mates, and what is said about bad calls."""

import copy

import pytest
import torch
from torch import nn

from pluriform.attacks.attack import attack
from pluriform.attacks.auto_attack import auto_attack
from pluriform.attacks.minimal import minimal_distances
from pluriform.attacks.perturb import ATTACKS, labelled, module_of, passes
from pluriform.attacks.suite import Member, Suite
from pluriform.attacks.threat import Threat
from pluriform.errors import BoundsError, ConfigError, LabelError, NonFiniteError, ShapeError, UnsupportedOpError
from pluriform.fused import network as network_file
from pluriform.fused.network import FusedNetwork

THREATS = [Threat("linf", 0.1, (0, 1)), Threat("l2", 0.5, (0, 1)), Threat("l1", 1.5, (0, 1))]
ORDER = {"linf": float("inf"), "l2": 2, "l1": 1}
CASES = [
    (method, threat) for method in sorted(ATTACKS) for threat in THREATS if (method, threat.norm) != ("square", "l1")
]
every_case = pytest.mark.parametrize(("method", "threat"), CASES, ids=lambda part: getattr(part, "norm", part))
FEW = {"square": {"queries": 200}, "fgsm": {}}


def few(method):
    """A small budget."""
    return FEW.get(method, {"steps": 20})


@every_case
def test_results_are_legal_and_lower_accuracy(net, samples, method, threat):
    x, y = samples
    moved = attack(net, x, y, threat, method, **few(method))
    assert (moved - x).flatten(1).norm(ORDER[threat.norm], dim=1).max() <= threat.eps + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (net(moved).argmax(-1) == y).float().mean() < 0.8


@every_case
def test_nothing_changes_but_the_result(net, samples, method, threat):
    x, y = samples
    net.train()
    net[2].eval()
    net[1].weight.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    flags, kept, random = [w.requires_grad for w in net.parameters()], x.clone(), torch.get_rng_state()
    attack(net, x, y, threat, method, **few(method))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [part.training for part in net.modules()] == modes
    assert [w.requires_grad for w in net.parameters()] == flags
    assert all(w.grad is None for w in net.parameters())
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), random)


@every_case
def test_a_sample_does_not_depend_on_its_batch_mates(net, samples, method, threat):
    x, y = samples
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    whole = attack(net.double(), x.double(), y, threat, method, **few(method))
    halves = [attack(net, x[rows].double(), y[rows], threat, method, **few(method)) for rows in order.split(13)]
    torch.testing.assert_close(torch.cat(halves), whole[order])


@every_case
def test_eps_0_returns_the_inputs_bit_for_bit(net, samples, method, threat):
    x, y = samples
    moved = attack(net, x, y, threat.scaled(0), method)
    assert torch.equal(moved, x)
    assert moved.data_ptr() != x.data_ptr()


def test_modes_come_back_after_a_failure(net, samples):
    x, y = samples
    net.train()
    with pytest.raises(ShapeError, match=r"takes inputs of shape \(batch, 1, 3, 4\) .*; got mat1 and mat2 shapes"):
        attack(net, x[:, :, :3], y, THREATS[0])
    assert all(part.training for part in net.modules())
    assert all(weight.requires_grad for weight in net.parameters())


def test_bad_calls_say_what_to_do(net, samples):
    x, y = samples
    with pytest.raises(ConfigError, match="expected one of .*fgsm, pgd.*; got 'deepfool'"):
        attack(net, x, y, THREATS[0], "deepfool")
    with pytest.raises(ShapeError, match="expected a label for each input, at least one; got 40 inputs, 39 labels"):
        attack(net, x, y[1:], THREATS[0])
    with pytest.raises(BoundsError, match="got bounds None"):
        attack(net, x, y, Threat("linf", 0.1))
    with pytest.raises(ConfigError, match="8/255 = 0.03137 may be meant"):
        attack(net, x, y, Threat("linf", 8, (0, 1)))
    for size in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match=f"expected a step_size of 0 or more; got step_size {size}"):
            attack(net, x, y, THREATS[0], step_size=size)
    with pytest.raises(ConfigError, match=r"expected options of pgd \(.*steps.*\); got stepz"):
        attack(net, x, y, THREATS[0], stepz=3)
    with pytest.raises(ConfigError, match=r"expected options of autoattack \(suite, batch_size\); got steps"):
        attack(net, x, y, THREATS[0], "autoattack", steps=3)


@pytest.mark.parametrize("threat", THREATS[:2], ids=lambda threat: threat.norm)
def test_auto_attack_by_its_name_is_its_worst_case(net, samples, threat):
    x, y = samples
    moved, worst = attack(net, x, y, threat, method="autoattack", seed=3), auto_attack(net, x, y, threat, seed=3)
    assert torch.equal(moved, worst.inputs)
    assert torch.equal(net(moved).argmax(1) == y, worst.standing)
    assert (moved - x).flatten(1).norm(ORDER[threat.norm], dim=1).max() <= threat.eps + 1e-6
    assert torch.equal(attack(net, x, y, threat.scaled(0), "autoattack"), x)


class Told(nn.Module):
    """What a network says, changed."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


CALLS = [
    lambda net, x, y: attack(net, x, y, THREATS[0]),
    lambda net, x, y: auto_attack(net, x, y, THREATS[0]),
    lambda net, x, y: minimal_distances(net, x, y, "linf", (0, 1)),
]
every_call = pytest.mark.parametrize("call", CALLS, ids=["attack", "auto_attack", "minimal_distances"])


@every_call
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, y: (x, y.float()), ShapeError, r"expected integer labels of shape \(batch,\); got torch.float32"),
        (lambda x, y: (x, y[:, None]), ShapeError, r"got torch.int64 of shape \(40, 1\)"),
        (lambda x, y: (x, 0 * y + 5), LabelError, "expected labels in 0..4; got labels from 5 to 5"),
        (lambda x, y: (x, y - 5), LabelError, "expected labels in 0..4; got labels from -5 to"),
        (lambda x, y: (x.double(), y), ShapeError, r"\(batch, 1, 4, 4\) and torch.float64; got .*pass inputs of"),
    ],
)
def test_inputs_and_labels_that_do_not_fit_are_said(net, samples, call, change, error, words):
    with pytest.raises(error, match=words):
        call(net, *change(*samples))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x.numpy(), y), r"expected a floating-point .*; got ndarray and torch.int64 .*float\(\)"),
        (lambda x, y: ((255 * x).byte(), y), "got torch.uint8 and torch.int64"),
        (lambda x, y: (x, y.tolist()), "got torch.float32 and list"),
        (lambda x, y: (x.bfloat16(), y), "expected inputs of 32 or 64 bits; got torch.bfloat16"),
    ],
)
def test_what_is_no_tensor_is_said(net, samples, change, words):
    with pytest.raises(ShapeError, match=words):
        labelled(net, *change(*samples), "attack")


@every_call
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda out: (out, out), ShapeError, r"expected logits of shape \(batch, classes\) .*; got tuple .* of Told"),
        (lambda out: out[:, :1], ShapeError, r"got shape \(1, 1\) .*a logit for each class, at least two"),
        (lambda out: out.mean(), ShapeError, r"got shape \(\)"),
        (lambda out: out / 0 * 0, NonFiniteError, "expected finite logits; got NaN or infinity .* of Told"),
    ],
)
def test_a_network_that_gives_no_logits_is_named(net, samples, call, change, error, words):
    with pytest.raises(error, match=words):
        call(Told(net, change), *samples)


@pytest.mark.parametrize("method", ["pgd", "apgd-dlr", "fab-t", "square"])
def test_labels_may_be_short_integers(net, samples, method):
    x, y = samples
    options = {"queries": 20} if method == "square" else {"steps": 2}
    expected = attack(net, x, y, THREATS[0], method, **options)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(attack(net, x, y.to(dtype), THREATS[0], method, **options), expected)


def test_a_function_serves(net, samples, tmp_path):
    net.eval()
    x, y = (part[:8] for part in samples)
    suite = Suite("two", (Member("fgsm"), Member("pgd", {"steps": 3})))
    for call in (
        lambda form: attack(form, x, y, THREATS[0]),
        lambda form: auto_attack(form, x, y, THREATS[0], suite).inputs,
        lambda form: minimal_distances(form, x, y, "linf", (0, 1), steps=2).points,
    ):
        assert torch.equal(call(lambda at: net(at)), call(net))
    with pytest.raises(ConfigError, match="expected a form, a module or a function of inputs; got str"):
        module_of("net")
    with pytest.raises(ConfigError, match="expected a module, whose weights a run can note; got a function"):
        auto_attack(lambda at: net(at), x, y, THREATS[0], suite, run=tmp_path / "run")


def test_inputs_may_come_out_of_inference_mode(net, samples):
    with torch.inference_mode():
        x = samples[0] * 1
    expected = attack(net, *samples, THREATS[0], "fgsm")
    assert torch.equal(attack(net, x, samples[1], THREATS[0], "fgsm"), expected)


def test_a_forward_without_gradient_is_named(samples):
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1).detach())

    with pytest.raises(UnsupportedOpError, match="expected outputs differentiable in the inputs; got .* of Detached"):
        attack(Detached(16, 5), *samples, THREATS[0])
    with pytest.raises(UnsupportedOpError, match="or use the attack square"):
        attack(Detached(16, 5), *samples, THREATS[0], "fab-t")
    with torch.inference_mode(), pytest.raises(UnsupportedOpError, match=r"leave torch\.inference_mode"):
        attack(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), *samples, THREATS[0])


@every_case
def test_what_is_nan_in_a_gradient_is_passed_over(net, samples, method, threat):
    class Torn(nn.Module):
        def forward(self, x):
            corner = x[:, :, 0, 0]
            return net(x) + 0 * torch.where(corner > 2, (corner - 2).sqrt(), 0)  # The slope of what is not chosen.

    class Blind(nn.Module):
        def forward(self, x):
            seen = torch.ones_like(x[0])
            seen[0, 0, 0] = 0
            return net(torch.where(seen > 0, x, x.detach()))

    x, y = (part[:8] for part in samples)
    options = {"queries": 20} if method == "square" else {} if method == "fgsm" else {"steps": 4}
    moved = attack(Torn(), x, y, threat, method, **options)
    torch.testing.assert_close(moved, attack(Blind(), x, y, threat, method, **options))
    assert not torch.equal(moved, x)


@every_case
def test_fused_kernels_break_the_same_samples(samples, method, threat, monkeypatch):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)), samples[0]
    y = net(x).argmax(-1)
    plain = attack(net, x, y, threat, method, **few(method))
    computed, forward = [], FusedNetwork.forward
    monkeypatch.setattr(network_file, "LEAST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(FusedNetwork, "forward", lambda self, at: computed.append(len(at)) or forward(self, at))
    fused = attack(net, x, y, threat, method, **few(method))
    assert computed
    broken = [net(moved).argmax(-1) != y for moved in (plain, fused)]
    assert broken[0].any()
    assert int((broken[0] != broken[1]).sum()) <= 1  # A sample at the boundary may round to either side.


def test_passes_count_what_an_attack_may_spend():
    assert passes("fgsm") == 2
    assert passes("pgd", steps=7, restarts=3) == 42
    assert passes("apgd-t", steps=100) == 1800
    assert passes("square", queries=300) == 300

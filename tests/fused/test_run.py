"""Outputs, losses and gradients of the fused kernels against each network run alone in float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pluriform.errors import GraphError, ShapeError
from pluriform.fused import run as run_file
from pluriform.fused.call import blocks_of
from pluriform.fused.chain import NotFused
from pluriform.fused.program import compile_program
from pluriform.fused.run import fused_chains, fused_gradients, fused_outputs
from pluriform.graph.parameters import stack
from pluriform.nets.lenet import LeNet

SHAPE = (2, 6, 9)
NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 5)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(108, 41), nn.ReLU(), nn.Linear(41, 13, bias=False), nn.LeakyReLU(0.2), nn.Linear(13, 3)
    ),
    "convs": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 7, 3, stride=2, padding=2, bias=False),
        nn.Tanh(),
        nn.Conv2d(7, 3, 1),
        nn.ELU(0.7),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(18, 4),
    ),
    "overlapping pools": lambda: nn.Sequential(
        nn.Conv2d(2, 9, (2, 3), padding=(0, 2), dilation=(2, 1)),
        nn.SiLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(9, 6, (2, 3)),
        nn.Sigmoid(),
        nn.AvgPool2d((1, 2), stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 9),
        nn.Linear(9, 3),
        nn.Tanh(),
    ),
    "left-over rows": lambda: nn.Sequential(
        nn.AvgPool2d((1, 2)),
        nn.Conv2d(2, 6, 1, stride=(2, 1)),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 10),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(10, 2),
    ),
    "a stride that skips inputs": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1, stride=3, padding=1), nn.Flatten(), nn.Linear(18, 2)
    ),
    "one window": lambda: nn.Sequential(nn.Conv2d(2, 3, (6, 9)), nn.ReLU(), nn.Flatten(), nn.Linear(3, 3)),
}


def members_of(make, count):
    torch.manual_seed(0)
    return [make() for _ in range(count)]


def relative(found, expected):
    return float((found - expected).norm() / (expected.norm() + 1e-30))


def check(members, x, y, classification, own):
    """Every number against autograd in float64."""
    weights = stack(members).parameters
    program = compile_program(members[0], x[0, :1] if own else x[:1])
    outputs = fused_outputs(program, weights, x, own_batches=own)
    found = fused_gradients(program, weights, x, y, classification=classification, own_batches=own)
    for i, member in enumerate(members):
        plain = copy.deepcopy(member).double()
        inputs, targets = (x[i], y[i]) if own else (x, y)
        logits = plain(inputs.double())
        loss = F.cross_entropy(logits, targets) if classification else (logits - targets).square().mean()
        loss.backward()
        assert relative(outputs[i], logits.detach()) < 1e-5
        assert abs(float(found.losses[i]) - float(loss.detach())) < 1e-5 * float(loss.detach())
        for name, parameter in plain.named_parameters():
            # Sums that nearly cancel keep an absolute error.
            torch.testing.assert_close(found.weights[name][i].double(), parameter.grad, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("batch", [1, 7, 33, 100])
@pytest.mark.parametrize("name", NETWORKS)
def test_classification_on_a_shared_batch(name, batch):
    members = members_of(NETWORKS[name], 3)
    x = torch.randn(batch, *SHAPE)
    classes = members[0](x[:1]).shape[1]
    check(members, x, torch.randint(0, classes, (batch,)), True, False)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_regression_on_batches_of_their_own(name, count):
    members = members_of(NETWORKS[name], count)
    x = torch.randn(count, 20, *SHAPE)
    check(members, x, torch.randn(count, 20, members[0](x[0]).shape[1]), False, True)


def test_lenet():
    members = members_of(lambda: LeNet((1, 28, 28), 10), 2)
    check(members, torch.rand(2, 50, 1, 28, 28), torch.randint(0, 10, (2, 50)), True, True)


def test_results_depend_neither_on_threads_nor_on_the_run():
    members = members_of(NETWORKS["convs"], 5)
    weights, x, y = stack(members).parameters, torch.randn(50, *SHAPE), torch.randint(0, 4, (50,))
    program = compile_program(members[0], x[:1])
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            runs.append(fused_gradients(program, weights, x, y, classification=True))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert torch.equal(run.losses, runs[0].losses)
        assert all(torch.equal(run.weights[name], runs[0].weights[name]) for name in weights)


def test_labels_outside_the_classes_are_refused():
    members = members_of(NETWORKS["linear"], 2)
    x = torch.randn(3, *SHAPE)
    program = compile_program(members[0], x)
    with pytest.raises(IndexError, match=r"0 to 4 expected, got 0 to 5"):
        fused_gradients(program, stack(members).parameters, x, torch.tensor([0, 5, 1]), classification=True)


@pytest.mark.parametrize("lanes", [(8, 16), (8, 16, 32, 40)])
def test_blocks_cover_the_batch_in_order_with_less_than_a_unit_to_spare(lanes):
    for samples in range(1, 300):
        blocks = blocks_of(samples, lanes)
        assert set(blocks[:, 2]) <= set(lanes)
        assert blocks[:, 1].sum() == samples
        assert blocks[:, 2].sum() - samples < 8
        assert list(blocks[:, 0]) == [int(blocks[:k, 1].sum()) for k in range(len(blocks))]
        assert list(blocks[:, 3]) == [int(blocks[:k, 2].sum()) for k in range(len(blocks))]


@pytest.mark.parametrize("name", ["convs", "overlapping pools", "mlp"])
def test_outputs_of_a_sample_depend_neither_on_its_batch_nor_on_other_networks(name):
    members = members_of(NETWORKS[name], 4)
    weights, x = stack(members).parameters, torch.randn(100, *SHAPE)
    program = compile_program(members[0], x[:1])
    whole = fused_outputs(program, weights, x)
    for start, stop in ((0, 1), (3, 19), (40, 73)):
        assert torch.equal(fused_outputs(program, weights, x[start:stop]), whole[:, start:stop])
    last = {own: part[3:] for own, part in weights.items()}
    assert torch.equal(fused_outputs(program, last, x), whole[3:])


def test_lengths_that_the_program_was_not_made_for_are_refused():
    members = members_of(NETWORKS["linear"], 2)
    weights, x = stack(members).parameters, torch.randn(3, *SHAPE)
    program = compile_program(members[0], x)
    with pytest.raises(GraphError, match=r"540 numbers for each of 2 members.*weight 1\.weight"):
        fused_outputs(program, weights | {"1.weight": torch.zeros(2, 5, 107)}, x)
    with pytest.raises(GraphError, match=r"weight 1\.bias"):
        fused_outputs(program, weights | {"1.bias": weights["1.bias"][:1]}, x)
    with pytest.raises(ShapeError, match=r"inputs of shape \(2, 6, 9\)"):
        fused_outputs(program, weights, x[:, :1])
    with pytest.raises(ShapeError, match="for every member"):
        fused_outputs(program, weights, x.expand(3, *x.shape), own_batches=True)
    for classification, targets in ((True, torch.zeros(2)), (True, torch.zeros(3)), (False, torch.zeros(3, 1))):
        with pytest.raises(ShapeError, match="targets of shape"):
            fused_gradients(program, weights, x, targets, classification=classification)


@pytest.mark.parametrize(("conditional", "normalise"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("samples", [1, 9, 50])
@pytest.mark.parametrize("name", ["linear", "mlp", "convs", "overlapping pools", "a stride that skips inputs"])
def test_chains_are_those_of_automatic_differentiation(name, samples, conditional, normalise):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    start, unit = torch.randn(samples, *SHAPE), torch.rand(SHAPE) + 0.5
    weights = {key: tensor.detach()[None] for key, tensor in network.named_parameters()}
    program = compile_program(network, start)
    classes = torch.arange(samples) % program.outputs if conditional else None
    setting = {"rounds": 3, "step": 0.3, "most": 0.2, "bounds": (-1.5, 1.0), "normalise": normalise}
    found = fused_chains(program, weights, start, noise=0.0, unit=unit, labels=classes, **setting)
    exact, state, largest = copy.deepcopy(network).double(), start.double(), torch.zeros(samples, dtype=torch.float64)
    for _ in range(3):
        state.requires_grad_()
        outputs = exact(state)
        score = outputs.logsumexp(1) if classes is None else outputs.gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(score.sum(), state)
        gradient = gradient * unit
        norms = gradient.flatten(1).norm(dim=1)
        largest = torch.maximum(largest, norms)
        gradient = gradient / norms.view(-1, 1, 1, 1) if normalise else gradient
        state = (state.detach() + unit * 0.3 * gradient.clamp(-0.2, 0.2)).clamp(-1.5, 1.0)
    assert torch.allclose(found.inputs.double(), state, atol=2e-5)
    assert torch.allclose(found.gradients.double(), largest, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found.inputs, start.clamp(-1.5, 1.0), atol=1e-4)


def test_noise_of_chains_has_its_size_and_its_generator(monkeypatch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    weights = {key: tensor.detach()[None] for key, tensor in network.named_parameters()}
    start = torch.zeros(40, *SHAPE)
    program, setting = (
        compile_program(network, start),
        {"rounds": 7, "step": 1.0, "noise": 0.3, "unit": torch.tensor(2.0)},
    )

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return fused_chains(program, weights, start, generator=generator, **setting).inputs

    first = drawn(0)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert float(first.std()) == pytest.approx(2.0 * 0.3 * 7**0.5, rel=0.05)
    assert abs(float(first.mean())) < 0.1
    monkeypatch.setattr(run_file, "MOST_NOISE", 3 * 40 * 108)  # Three rounds at once.
    assert torch.allclose(drawn(0), first, atol=1e-5)


def test_chains_begin_with_a_product():
    network = nn.Sequential(nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(48, 2)).eval()
    weights = {key: tensor.detach()[None] for key, tensor in network.named_parameters()}
    start = torch.zeros(2, *SHAPE)
    with pytest.raises(NotFused, match="does not begin"):
        fused_chains(compile_program(network, start), weights, start, rounds=1, step=1.0, noise=0.0, unit=start[0])

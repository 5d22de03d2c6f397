import copy
import math

import pytest
import torch
from torch import nn

from pluriform.data.data import Data, Split
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.joint import Joint, Terms
from pluriform.energy.langevin import Langevin
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart
from pluriform.energy.streams import Cycle
from pluriform.errors import ConfigError
from pluriform.training.augmentation import Augmentation
from pluriform.training.feed import Batch, Feed
from pluriform.training.loss import Loss

CPU = torch.device("cpu")


def double_data(samples=24, features=3, classes=2):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(samples, features, generator=generator, dtype=torch.float64)
    part = Split(inputs, torch.arange(samples) % classes)
    return Data("toy", "classification", part, part, part, tuple("abcd"[:classes]), (0.0, 1.0))


@pytest.fixture
def data():
    return double_data()


@pytest.fixture
def tiny():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def joint(network, data, terms=Terms(), sampler=Langevin(4, 0.3, 0.05), size=40, **changed):  # noqa: B008
    space = Space.of(data)
    buffer = ReplayBuffer(UniformStart(space, data.input_shape), size, data.outputs, torch.Generator().manual_seed(2))
    setting = {
        "labelled_first": True,
        "renewed": 0.1,
        "input_noise": 0.0,
        "density_noise": True,
        "conditional": False,
        "policy": "refuse",
        "rho": 0.0,
    }
    other = Cycle(Feed(data, 8, 1, Augmentation(), CPU))
    return Joint(network, terms, sampler, buffer, other, Loss("classification"), **(setting | changed))


def batches(data, size=8):
    return list(Feed(data, size, 0, Augmentation(), CPU).batches(0))


def by_hand(network, terms, labelled, density, chains, labels):
    """The loss in the words of the issue's sheet."""

    def f(inputs):
        return network(inputs)

    cross_entropy = nn.functional.cross_entropy(f(labelled.inputs), labelled.targets)
    loss = terms.density * (f(chains).logsumexp(1).mean() - f(density.inputs).logsumexp(1).mean())
    loss = loss + terms.classification * cross_entropy
    own = f(labelled.inputs).gather(1, labelled.targets[:, None]).mean()
    loss = loss + terms.joint * (f(chains).gather(1, labels[:, None]).mean() - own)
    squares = f(density.inputs).logsumexp(1).square().mean() + f(chains).logsumexp(1).square().mean()
    return loss + terms.penalty * squares


def taken(step, batch):
    """Figures of a step, and the labels and states of the chains that it used."""
    chosen = []
    write = step.buffer.write
    step.buffer.write = lambda *args: chosen.append(args) or write(*args)
    figures = step(batch)
    return figures, chosen[0][0], chosen[0][1]


@pytest.mark.parametrize(
    "terms", [Terms(), Terms(0.3, 0.7), Terms(1, 0, 0.5, 0.2), Terms(0, 1, 0, 0.1)], ids=lambda terms: repr(terms)
)
def test_the_loss_is_the_one_of_the_paper(data, tiny, terms):
    step = joint(tiny, data, terms, conditional=True)
    batch = batches(data)[0]
    density = Cycle(Feed(data, 8, 1, Augmentation(), CPU)).at(0)
    figures, chosen, chains = taken(step, batch)
    wanted = by_hand(tiny, terms, batch, density, chains, chosen.labels)
    assert figures["loss"].item() == pytest.approx(wanted.item(), abs=1e-12)
    gap = tiny(density.inputs).logsumexp(1).mean() - tiny(chains).logsumexp(1).mean()
    assert figures["gap"].item() == pytest.approx(gap.item(), abs=1e-12)
    assert figures["largest_score"].item() == pytest.approx(
        torch.cat([tiny(density.inputs), tiny(chains)]).logsumexp(1).abs().max().item(), abs=1e-12
    )


def test_its_gradient_is_that_of_finite_differences(data, tiny):
    """Chains stay where they are while the weights move: samples carry no gradient."""
    terms = Terms(1, 1, 0.5, 0.1)
    step = joint(tiny, data, terms, conditional=True)
    batch, density = batches(data)[0], Cycle(Feed(data, 8, 1, Augmentation(), CPU)).at(0)
    figures, chosen, chains = taken(step, batch)
    assert not chains.requires_grad
    figures["loss"].backward()
    for parameter in tiny.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(len(flat)):
            kept = flat[place].item()
            values = []
            for move in (1e-6, -1e-6):
                flat[place] = kept + move
                values.append(by_hand(tiny, terms, batch, density, chains, chosen.labels).item())
            flat[place] = kept
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[place].item(), abs=1e-7)


def test_a_step_leaves_gradients_flags_and_statistics_alone(data, tiny):
    tiny[0].bias.requires_grad_(False)
    tiny[2].bias.grad = torch.ones(2).double()
    step = joint(tiny, data)
    before = copy.deepcopy(tiny.state_dict())
    step(batches(data)[0])
    assert all(torch.equal(before[name], value) for name, value in tiny.state_dict().items())
    assert [p.requires_grad for p in tiny.parameters()] == [True, False, True, True]
    assert torch.equal(tiny[2].bias.grad, torch.ones(2).double())
    assert tiny[0].weight.grad is None


def test_chains_return_to_the_buffer_with_the_number_of_their_step(data, tiny):
    step = joint(tiny, data)
    for number, batch in enumerate(batches(data)):
        before = step.buffer.samples.clone()
        _, chosen, chains = taken(step, batch)
        assert torch.equal(step.buffer.samples[chosen.index], chains)
        others = torch.ones(40, dtype=torch.bool)
        others[chosen.index] = False
        assert torch.equal(step.buffer.samples[others], before[others])
        assert (step.buffer.touched[chosen.index] == number).all()
    assert int(step.done) == 3


def test_without_steps_the_contrast_is_that_against_the_start(data, tiny):
    step = joint(tiny, data, sampler=Langevin(0), renewed=0.0)
    before = step.buffer.samples.clone()
    figures, chosen, chains = taken(step, batches(data)[0])
    assert torch.equal(chains, before[chosen.index])
    assert torch.equal(step.buffer.samples, before)
    assert bool(figures["loss"].isfinite())
    assert step.watch.check(figures) is None


def test_the_streams_change_places_with_unlabelled_samples(data, tiny):
    labelled, density = batches(data)[0], batches(data)[1]
    first, second = joint(tiny, data), joint(tiny, data, labelled_first=False)
    first.other = second.other = None
    torch.manual_seed(0)
    first.other = _Only(density)
    one = first(labelled)
    torch.manual_seed(0)
    second.other = _Only(labelled)
    other = second(density)
    assert one["loss"].item() == other["loss"].item()


class _Only:
    def __init__(self, batch):
        self.batch = batch

    def at(self, step):
        return self.batch


def test_labels_of_the_density_do_not_matter(data, tiny):
    batch = batches(data)[0]
    figures = []
    for targets in (batch.targets, torch.zeros_like(batch.targets)):
        step = joint(copy.deepcopy(tiny), data)
        step.other = _Only(Batch(batch.inputs, targets))
        torch.manual_seed(0)
        figures.append(step(batch)["loss"].item())
    assert figures[0] == figures[1]


@pytest.mark.parametrize("density_noise", [True, False])
def test_noise_of_inputs_is_in_units_and_leaves_the_data_alone(data, density_noise):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2).double())

        def forward(self, inputs):
            seen.append(inputs.detach().clone())
            return inputs @ self.weight

    wide = Data(
        "toy", "classification", *[Split(data.train.inputs * 8, data.train.targets)] * 3, ("a", "b"), (0.0, 8.0)
    )
    kept = wide.train.inputs.clone()
    step = joint(Spy(), wide, sampler=Langevin(0), input_noise=0.5, density_noise=density_noise)
    step.other = _Only(Batch(torch.full((4000, 3), 4.0).double(), torch.zeros(4000).long()))
    step.buffer = joint(Spy(), wide, size=4000).buffer
    step(Batch(torch.full((4000, 3), 4.0).double(), torch.zeros(4000).long()))
    labelled, density, _ = seen[-1].split(4000)
    assert labelled.std().item() == pytest.approx(0.5 * 4, rel=0.03)
    assert density.std().item() == pytest.approx(0.5 * 4 if density_noise else 0.0, rel=0.03)
    assert torch.equal(wide.train.inputs, kept)


def test_networks_with_dropout_sample_without_it_and_train_with_it(data):
    modes = []

    class Spy(nn.Dropout):
        def forward(self, inputs):
            modes.append(self.training)
            return super().forward(inputs)

    network = nn.Sequential(nn.Linear(3, 4), Spy(0.5), nn.Linear(4, 2)).double().eval()
    joint(network, data, sampler=Langevin(3))(batches(data)[0])
    assert modes == [False] * 3 + [True]
    assert all(part.training for part in network.modules())


def batch_norm():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()


def test_frozen_statistics_do_not_move_and_samples_do_not_touch(data):
    network = batch_norm()
    network[1].running_mean.normal_()
    before = copy.deepcopy(dict(network.named_buffers()))
    step = joint(network, data, policy="freeze")
    for batch in batches(data):
        step(batch)["loss"].backward()
    assert all(torch.equal(before[name], value) for name, value in network.named_buffers())
    assert network[1].weight.grad is not None
    assert [part.training for part in network.modules()] == [True, True, False, True, True]
    inputs = batches(data)[0].inputs
    assert torch.allclose(network(inputs)[:1], network(inputs[:1]), atol=1e-12)


def test_batch_statistics_of_data_chains_and_labels_stay_apart(data):
    network = batch_norm()
    step = joint(network, data, policy="train", sampler=Langevin(2))
    sizes = []
    network[1].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    step(batches(data)[0])
    assert sizes == [8] * 5


@pytest.mark.parametrize("rho", [0.05, 1.0])
def test_the_sharp_step_counts_statistics_once_and_takes_the_same_chains(data, rho):
    network = batch_norm()
    step = joint(network, data, policy="train", rho=rho, sampler=Langevin(0), renewed=0.0)
    step(batches(data)[0])["loss"].backward()
    assert int(network[1].num_batches_tracked) == 3
    assert all(p.grad is not None for p in network.parameters())


def test_a_radius_of_nearly_zero_is_the_plain_step(data, tiny):
    gradients = []
    for rho in (0.0, 1e-9):
        network = copy.deepcopy(tiny)
        torch.manual_seed(0)
        joint(network, data, rho=rho)(batches(data)[0])["loss"].backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_the_sharp_step_is_the_gradient_at_the_raised_weights(data, tiny):
    terms, rho = Terms(1, 1, 0, 0.1), 0.2
    network = copy.deepcopy(tiny)
    batch, density = batches(data)[0], Cycle(Feed(data, 8, 1, Augmentation(), CPU)).at(0)
    torch.manual_seed(0)
    figures, chosen, chains = taken(joint(network, data, terms, rho=rho), batch)
    figures["loss"].backward()
    loss = by_hand(tiny, terms, batch, density, chains, chosen.labels)
    gradients = torch.autograd.grad(loss, list(tiny.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(tiny.parameters(), gradients, strict=True):
            parameter += rho * gradient / norm
    by_hand(tiny, terms, batch, density, chains, chosen.labels).backward()
    assert all(
        torch.allclose(a.grad, b.grad, atol=1e-10) for a, b in zip(network.parameters(), tiny.parameters(), strict=True)
    )


@pytest.mark.parametrize("where", ["buffer", "weight"])
def test_nan_is_seen_in_the_same_step(data, tiny, where):
    step = joint(tiny, data, size=8, renewed=0.0)  # Every chain is chosen.
    assert step.watch.check(step(batches(data)[0])) is None
    if where == "buffer":
        step.buffer.samples[3, 1] = math.nan
    else:
        tiny[0].weight.data[2, 1] = math.nan
    assert "nan" in step.watch.check(step(batches(data)[1]))


def test_afterwards_only_good_chains_are_left(data, tiny):
    step = joint(tiny, data, size=40, renewed=0.0)
    for batch in batches(data):
        step(batch)
    step.buffer.samples[step.buffer.touched == 2] = math.nan
    kept = step.buffer.samples[step.buffer.touched < 2].clone()
    early = step.buffer.touched < 2
    step.afterwards(2)
    assert bool(step.buffer.samples.isfinite().all())
    assert torch.equal(step.buffer.samples[early], kept)


def test_each_roll_back_makes_the_penalty_stronger(data, tiny):
    step = joint(tiny, data)
    assert [step.gentler() for _ in range(3)] == ["penalty 0.01", "penalty 0.02", "penalty 0.04"]
    batch = batches(data)[0]
    density = Cycle(Feed(data, 8, 1, Augmentation(), CPU)).at(0)
    figures, chosen, chains = taken(step, batch)
    wanted = by_hand(tiny, Terms(penalty=0.04), batch, density, chains, chosen.labels)
    assert figures["loss"].item() == pytest.approx(wanted.item(), abs=1e-12)
    assert joint(tiny, data, Terms(penalty=0.5)).gentler() == "penalty 1"


def test_chains_of_classes_never_mix():
    """Each class has a corner of its own; chains of the others never come there."""

    class Corners(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3).double())

        def forward(self, inputs):
            return inputs @ self.weight

    data = double_data(classes=3)
    step = joint(Corners(), data, sampler=Langevin(10, 0.2, 0.0), size=30, renewed=0.0, conditional=True)
    for batch in batches(data) * 12:
        step(batch)
    climbed = step.buffer.touched >= 0
    assert int(climbed.sum()) == 30
    gained = step.buffer.samples == 1
    assert torch.equal(gained.nonzero()[:, 1], torch.arange(30) // 10)


def test_everything_that_changes_is_in_the_state(data, tiny):
    step = joint(tiny, data)
    for batch in batches(data):
        step.watch.check(step(batch))
    again = joint(tiny, data)
    for name, tensor in again.state.items():
        tensor.copy_(step.state[name])
    torch.manual_seed(3)
    first = step(batches(data)[0])
    torch.manual_seed(3)
    second = again(batches(data)[0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(step.state[name], again.state[name]) for name in ("samples", "touched", "done"))
    assert int(again.watch.state["seen"]) == int(step.watch.state["seen"]) > 0


def test_shared_modules_and_tied_weights(data):
    layer = nn.Linear(3, 3).double()
    network = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 2).double())
    step = joint(network, data, rho=0.1)
    step(batches(data)[0])["loss"].backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("change", [{"density": math.nan}, {"classification": math.inf}, {"penalty": -1.0}])
def test_weights_that_cannot_be(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Terms(**change)


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="above 0"):
        Terms(0, 0, 0, 0)
    assert Terms(0, 1).plain
    assert not Terms(0, 1, penalty=0.1).plain

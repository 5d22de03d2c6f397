import pytest
import torch

from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.space import Space
from pluriform.energy.start import Start, UniformStart
from pluriform.errors import ConfigError


class Marked(Start):
    """Draws that tell the class and that they are new."""

    def __init__(self):
        super().__init__()
        self.space = Space(torch.tensor(0.0), torch.tensor(1.0), None)

    def draw(self, labels, generator=None):
        return labels[:, None] + torch.full((len(labels), 2), 0.5)


def uniform(size, classes):
    space = Space(torch.tensor(0.0), torch.tensor(1.0), (-1.0, 1.0))
    return ReplayBuffer(UniformStart(space, (3,)), size, classes, torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("size", "classes"), [(10, 3), (2, 3), (0, 1), (10_000, 3)])
def test_sizes_that_classes_do_not_divide_are_refused_with_one_that_fits(size, classes):
    with pytest.raises(ConfigError, match=f"{size} chains for {classes} classes") as caught:
        uniform(size, classes)
    advised = int(str(caught.value).split("take ")[1].rstrip("."))
    assert advised >= classes
    assert advised % classes == 0


def test_first_states_are_those_of_their_classes_beyond_one_part():
    buffer = ReplayBuffer(Marked(), 2400, 3)
    assert torch.equal(buffer.samples[:, 0], torch.arange(2400) // 800 + 0.5)


def test_first_states_repeat_by_generator_and_spare_the_default_one():
    state = torch.get_rng_state()
    assert torch.equal(uniform(20, 2).samples, uniform(20, 2).samples)
    assert torch.equal(state, torch.get_rng_state())


def test_chosen_places_are_different_ones_and_all_alike_likely():
    buffer, hits = uniform(20, 4), torch.zeros(20)
    for _ in range(2000):
        chosen = buffer.choose(8, 0.0)
        assert len(chosen.index.unique()) == 8
        assert torch.equal(chosen.labels, chosen.index // 5)
        assert torch.equal(chosen.inputs, buffer.samples[chosen.index])
        hits[chosen.index] += 1
    spread = (2000 * 0.4 * 0.6) ** 0.5
    assert ((hits - 800).abs() < 4.5 * spread).all()


def test_what_is_chosen_is_a_copy():
    buffer = uniform(20, 4)
    before = buffer.samples.clone()
    buffer.choose(20, 0.5).inputs.fill_(7)
    assert torch.equal(buffer.samples, before)


def test_states_return_to_their_places_and_nothing_else_changes():
    buffer = uniform(20, 4)
    before = buffer.samples.clone()
    chosen = buffer.choose(6, 0.0)
    buffer.write(chosen, torch.arange(18.0).view(6, 3), step=9)
    assert torch.equal(buffer.samples[chosen.index], torch.arange(18.0).view(6, 3))
    others = torch.ones(20, dtype=torch.bool)
    others[chosen.index] = False
    assert torch.equal(buffer.samples[others], before[others])
    assert (buffer.touched[chosen.index] == 9).all()
    assert (buffer.touched[others] < 9).all()


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 1.0])
def test_chains_start_anew_as_often_as_asked(probability):
    buffer = ReplayBuffer(Marked(), 400, 4)
    buffer.samples.fill_(-9)
    trials = 200 * 100
    anew = sum(int((buffer.choose(100, probability).inputs[:, 0] != -9).sum()) for _ in range(200))
    assert abs(anew - trials * probability) <= 4.5 * (trials * probability * (1 - probability)) ** 0.5


def test_a_chain_that_starts_anew_starts_in_its_own_class():
    buffer = ReplayBuffer(Marked(), 40, 4)
    buffer.samples.fill_(-9)
    chosen = buffer.choose(40, 1.0)
    assert torch.equal(chosen.inputs[:, 0], chosen.labels + 0.5)
    assert torch.equal(chosen.labels, chosen.index // 10)


def test_more_chains_than_there_are():
    with pytest.raises(ConfigError, match=r"at most 20 chains.*got 21.*batch of at most 20"):
        uniform(20, 4).choose(21, 0.0)
    assert len(uniform(20, 4).choose(20, 0.0).index) == 20


def test_chains_written_at_a_step_or_later_start_anew():
    buffer = ReplayBuffer(Marked(), 4000, 4)
    buffer.samples.fill_(-9)
    buffer.touched[:] = torch.arange(4000) % 10
    assert buffer.renew_since(4) == 2400
    late = torch.arange(4000) % 10 >= 4
    assert torch.equal(buffer.samples[late][:, 0], (torch.arange(4000) // 1000)[late] + 0.5)
    assert (buffer.samples[~late] == -9).all()


def test_chains_that_no_step_has_touched_stay():
    buffer = ReplayBuffer(Marked(), 40, 4)
    assert buffer.renew_since(0) == 0
    buffer.write(buffer.choose(5, 0.0), torch.zeros(5, 2), step=0)
    assert buffer.renew_since(0) == 5

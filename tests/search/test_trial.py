import dataclasses
import time

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import DivergenceError
from pluriform.graph.parameters import weights_of
from pluriform.search import trial as trial_file
from pluriform.search.moves import draw_moves
from pluriform.search.trial import Common, Task, network_of, read_weights, run_trial
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.validation import assess


@pytest.fixture(scope="module")
def data():
    return pf.load("digits", validation=0.2)


@pytest.fixture(scope="module")
def common(data):
    return Common(pf.nets.build("mlp", data, seed=1), data, Recipe(learning_rate=1e-3), "cpu")


def accuracy(network, data):
    return float(assess(network, data.validation, Loss("classification"), torch.device("cpu")).accuracy)


def moves_of(common, seed=0, count=2):
    import numpy as np

    graph = network_of(Task(0, ""), common)
    return tuple(draw_moves(graph, count, np.random.default_rng(seed))[:1])


def test_score_and_weights_are_of_one_epoch(common, data, tmp_path):
    task = Task(0, str(tmp_path / "0"), epochs=4, seed=3)
    measured = run_trial(task, common)
    network = network_of(dataclasses.replace(task, weights=str(tmp_path / "0" / "weights.safetensors")), common).module
    assert measured.score == pytest.approx(accuracy(network, data), abs=1e-7)
    assert measured.score == max(measured.figures["scores"])
    assert len(measured.figures["scores"]) == 4
    assert measured.figures["epochs"] == 4
    assert measured.figures["parameters"] == sum(p.numel() for p in network.parameters())
    assert 0 < measured.figures["latency"] < 1000
    assert measured.figures["seconds"] > 0
    assert not (tmp_path / "0" / "checkpoint").exists()


def test_a_child_begins_where_its_parent_ended(common, data, tmp_path):
    parent = run_trial(Task(0, str(tmp_path / "0"), epochs=3, seed=3), common)
    weights, moves = str(tmp_path / "0" / "weights.safetensors"), moves_of(common)
    child = network_of(Task(1, "", (), moves, weights), common).module
    assert accuracy(child, data) == pytest.approx(parent.score, abs=1e-6)
    assert sum(p.numel() for p in child.parameters()) > parent.figures["parameters"]
    first = run_trial(Task(1, str(tmp_path / "1"), (), moves, weights, seed=5, epochs=2), common)
    again = run_trial(Task(1, str(tmp_path / "2"), (), moves, weights, seed=5, epochs=2), common)
    assert first.score == again.score
    one, other = (read_weights(tmp_path / name / "weights.safetensors") for name in "12")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    grandchild = network_of(Task(2, "", moves, (), str(tmp_path / "1" / "weights.safetensors")), common).module
    assert accuracy(grandchild, data) == pytest.approx(first.score, abs=1e-7)


def test_the_start_never_gets_worse_by_its_training(data, tmp_path):
    trained = pf.Training(epochs=15).fit(pf.nets.build("mlp", data), data).module
    ruinous = Common(trained, data, Recipe(learning_rate=1.0, warmup=0), "cpu")
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=1, also_untrained=True), ruinous)
    assert measured.score == measured.figures["untrained"] == pytest.approx(accuracy(trained, data), abs=1e-7)
    assert measured.figures["scores"][0] < measured.score
    written = read_weights(tmp_path / "0" / "weights.safetensors")
    kept = network_of(Task(0, ""), ruinous).module.state_dict()
    assert all(torch.equal(written[name], kept[name]) for name in written)


@pytest.mark.parametrize("end", ["hopeless", "time"])
def test_latency_is_of_evaluation_however_the_training_ended(data, tmp_path, end):
    """A batch norm over one vector cannot be evaluated in training mode."""
    common = Common(pf.nets.build("mlp-bn", data), data, Recipe(batch_size=16), "cpu")
    deadline = time.time() + 1.5 if end == "time" else None
    task = Task(
        0, str(tmp_path / "0"), epochs=400 if deadline else 4, least=(2.0,) * 4 * (not deadline), deadline=deadline
    )
    measured = run_trial(task, common)
    assert measured.figures["ended"] == end
    assert 0 < measured.figures["latency"] < 1000


def test_batches_are_halved_where_the_system_ended_the_trial_for_lack_of_memory(common, tmp_path, monkeypatch):
    kills = [3]
    monkeypatch.setattr(trial_file, "memory_kills", lambda: kills[0])
    task, real = Task(0, str(tmp_path / "0"), epochs=2), trial_file._measured
    seen = []

    def killed(task, *rest):
        seen.append(task.parts)
        if len(seen) < 3:
            raise KeyboardInterrupt  # As far as the folder can tell, the same as a kill.
        return real(task, *rest)

    monkeypatch.setattr(trial_file, "_measured", killed)
    for more in (0, 1):  # Of the first end the system knows nothing.
        with pytest.raises(KeyboardInterrupt):
            run_trial(task, common)
        kills[0] += more
    assert run_trial(task, common).figures["parts"] == 2
    assert seen == [1, 1, 2]


def test_a_hopeless_child_ends_after_the_epoch_that_shows_it(common, tmp_path):
    least = (float("-inf"), 2.0, 0.0, float("-inf"))
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=4, least=least), common)
    assert measured.figures["ended"] == "hopeless"
    assert measured.figures["epochs"] == 2
    assert measured.score == max(measured.figures["scores"])


def test_the_deadline_is_kept_to_a_step_and_the_best_so_far_comes_back(common, tmp_path):
    slow = dataclasses.replace(common, recipe=Recipe(batch_size=16))
    begin = time.time()
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=50, deadline=begin + 2.0), slow)
    assert time.time() - begin < 3.0
    assert measured.figures["ended"] == "time"
    assert measured.score == max(measured.figures["scores"])
    assert (tmp_path / "0" / "weights.safetensors").exists()
    early = run_trial(Task(1, str(tmp_path / "1"), epochs=10, deadline=begin), common)
    assert early.score is None
    assert not (tmp_path / "1" / "result.json").exists()


def test_a_finished_trial_is_read_not_run(common, tmp_path, monkeypatch):
    task = Task(0, str(tmp_path / "0"), epochs=1)
    first = run_trial(task, common)
    monkeypatch.setattr(trial_file, "_measured", lambda *_: pytest.fail("it ran again"))
    assert run_trial(task, common) == first


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_trial_goes_on_to_the_same_weights(common, tmp_path, monkeypatch, writes):
    whole = run_trial(Task(0, str(tmp_path / "0"), epochs=4, seed=2, also_untrained=True), common)
    real, count = pf.runs.Run.write_tensors, []

    def stop_after(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt

    task = Task(0, str(tmp_path / "1"), epochs=4, seed=2, also_untrained=True)
    monkeypatch.setattr(pf.runs.Run, "write_tensors", stop_after)
    try:
        run_trial(task, common)
    except KeyboardInterrupt:
        monkeypatch.setattr(pf.runs.Run, "write_tensors", real)
    resumed = run_trial(task, common)
    assert resumed.score == whole.score
    clocks = {"seconds", "latency", "step_seconds", "look_seconds"}
    first, second = ({k: v for k, v in one.figures.items() if k not in clocks} for one in (whole, resumed))
    assert first == second
    one, other = (read_weights(tmp_path / name / "weights.safetensors") for name in "01")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_regression_scores_minus_the_root_mean_squared_error(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = x @ torch.randn(5, 2, generator=generator)
    split = [Split(x[rows], y[rows]) for rows in (slice(0, 250), slice(250, 350), slice(350, 400))]
    data = pf.Data("linear", "regression", *split)
    common = Common(pf.nets.build("mlp", data), data, Recipe(learning_rate=3e-3), "cpu")
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=5), common)
    weights = str(tmp_path / "0" / "weights.safetensors")
    network = network_of(Task(0, "", weights=weights), common).module.eval()
    error = (network(data.validation.inputs) - data.validation.targets).square().mean().sqrt()
    assert measured.score == pytest.approx(-float(error.detach()), rel=1e-5)
    assert measured.score == max(measured.figures["scores"])


def test_weights_are_all_of_the_network(common, tmp_path):
    run_trial(Task(0, str(tmp_path / "0"), epochs=1), common)
    assert (
        read_weights(tmp_path / "0" / "weights.safetensors").keys()
        == weights_of(network_of(Task(0, ""), common).module).keys()
    )


def test_a_hopeless_child_that_was_killed_does_not_train_on(common, tmp_path, monkeypatch):
    task = Task(0, str(tmp_path / "0"), epochs=4, least=(float("-inf"), 2.0, 0.0, float("-inf")))
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SHARE", 1e9)  # A checkpoint after every epoch.
    real = Loop._run_epoch

    def kill(self, *args):
        real(self, *args)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_run_epoch", kill)
    with pytest.raises(KeyboardInterrupt):
        run_trial(task, common)
    monkeypatch.setattr(Loop, "_run_epoch", real)
    measured = run_trial(task, common)
    assert (measured.figures["ended"], measured.figures["epochs"]) == ("hopeless", 2)


def test_a_complete_training_is_not_hopeless(common, tmp_path):
    measured = run_trial(Task(0, str(tmp_path / "0"), epochs=2, least=(float("-inf"), 2.0)), common)
    assert (measured.figures["ended"], measured.figures["epochs"]) == ("", 2)


class Root(nn.Module):
    """NaN where the first pixel is negative."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) + x.flatten(1)[:, :1].sqrt()


def test_outputs_that_are_no_numbers_are_a_reason_not_a_score(data, tmp_path):
    inputs = data.validation.inputs.clone()
    inputs[3, 0, 0, 0] = -1.0
    broken = dataclasses.replace(data, validation=Split(inputs, data.validation.targets), bounds=None)
    with pytest.raises(DivergenceError, match=r"finite outputs; got NaN or infinity \(validation of trial 7\)"):
        run_trial(Task(7, str(tmp_path / "0"), epochs=2), Common(Root(), broken, Recipe(), "cpu"))
    with pytest.raises(DivergenceError, match="finite outputs"):
        run_trial(Task(7, str(tmp_path / "1"), epochs=2, also_untrained=True), Common(Root(), broken, Recipe(), "cpu"))


def test_a_training_that_is_made_longer_is_not_ended_by_patience(common, tmp_path):
    """Nothing is learnt: no epoch is better than the first."""
    still = Common(common.module, common.data, Recipe(learning_rate=1e-12), "cpu")
    task = Task(0, str(tmp_path / "0"), epochs=2, steps=2, most=40, deadline=time.time() + 60)
    assert run_trial(task, still).figures["steps"] == 80

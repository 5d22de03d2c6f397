import copy
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from pluriform.errors import CorruptFileError, DivergenceError
from pluriform.graph.parameters import weights_of
from pluriform.runs import Run
from pluriform.training import loop as loop_file
from pluriform.training.augmentation import Augmentation
from pluriform.training.checkpoint import Checkpoint
from pluriform.training.feed import Feed
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.validation import assess

CPU = torch.device("cpu")
LOSS = Loss("classification")
FULL = Recipe(batch_size=32, clip_norm=1.0, ema=0.9, patience=3, augmentation=Augmentation(shift=1))
PLAIN = Recipe(batch_size=32)


def make(net, data, recipe, run=None, epochs=4, step=None):
    return Loop(
        net,
        step or (lambda batch: LOSS(net(batch.inputs), batch.targets)),
        Feed(data, recipe.batch_size, 0, recipe.augmentation, CPU),
        recipe,
        seed=0,
        epochs=epochs,
        run=run,
        validate=lambda: assess(net, data.validation, LOSS, CPU),
    )


def fitted(net, data, recipe, run=None, **kwargs):
    net = copy.deepcopy(net)
    cost = make(net, data, recipe, run, **kwargs).run()
    return weights_of(net), cost


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_the_loop_that_one_would_write_by_hand(digits, net):
    by_hand = copy.deepcopy(net)
    del by_hand[3]  # dropout
    mine = copy.deepcopy(by_hand)
    make(mine, digits, Recipe(batch_size=32, schedule="constant", warmup=0.0)).run()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=3e-3, weight_decay=1e-2)
    feed = Feed(digits, 32, 0, Augmentation(), CPU)
    for epoch in range(4):
        for batch in feed.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(by_hand(batch.inputs), batch.targets).backward()
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine.parameters(), by_hand.parameters(), strict=True))


def test_the_global_random_state_neither_matters_nor_changes(digits, net):
    first, _ = fitted(net, digits, PLAIN)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second, _ = fitted(net, digits, PLAIN)
    assert torch.equal(state, torch.get_rng_state())
    assert equal(first, second)


def test_the_log_and_the_cost(digits, net, tmp_path):
    with Run(tmp_path / "run", {}) as run:
        _, cost = fitted(net, digits, PLAIN, run)
        lines = run.read_lines()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] < lines[0]["loss"]
    named = {"training", "epoch", "loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds"}
    assert lines[0].keys() == named
    assert (cost.epochs, cost.steps, cost.sample_passes) == (4, 28, 28 * 32)
    assert 0 < cost.training_seconds < 60


def test_further_figures_of_a_step_are_logged(digits, net, tmp_path):
    def step(batch):
        return {"loss": LOSS(net(batch.inputs), batch.targets), "norm": torch.tensor(2.5)}

    with Run(tmp_path / "run", {}) as run:
        make(net, digits, PLAIN, run, epochs=1, step=step).run()
        assert run.read_lines()[0]["norm"] == 2.5


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_weights_by_another_figure_are_kept_without_stopping_early(digits, net, ema):
    figures, seen = [3.0, 1.0, 2.0, 1.0, 5.0], []

    def validate():
        seen.append({name: tensor.detach().clone() for name, tensor in weights_of(net).items()})
        found = assess(net, digits.validation, LOSS, CPU)
        return dataclasses.replace(found, criterion=torch.tensor([figures[len(seen) - 1]]))

    recipe = dataclasses.replace(PLAIN, ema=ema)
    loop = Loop(
        net, lambda batch: LOSS(net(batch.inputs), batch.targets), Feed(digits, 32, 0, Augmentation(), CPU), recipe,
        seed=0, epochs=5, validate=validate, keep_best=True,
    )  # fmt: skip
    assert loop.run().epochs == 5
    assert equal(weights_of(net), seen[1])
    assert not equal(seen[1], seen[3])


@pytest.mark.parametrize("recipe", [PLAIN, FULL, Recipe(batch_size=32, optimizer="sgd", learning_rate=0.05)])
@pytest.mark.parametrize("steps", [1, 7, 12])
def test_a_training_stopped_anywhere_goes_on_bit_for_bit(digits, net, tmp_path, monkeypatch, recipe, steps):
    expected, _ = fitted(net, digits, recipe)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", math.inf)
    stopped, left = copy.deepcopy(net), [steps]

    def step(batch):
        if left[0] == 0:
            raise RuntimeError("pulled the plug")
        left[0] -= 1
        return LOSS(stopped(batch.inputs), batch.targets)

    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(RuntimeError, match="plug"):
            make(stopped, digits, recipe, run, step=step).run()
        state = Checkpoint.read(run, "checkpoint/training.safetensors").state
        assert state["epoch"] * 7 + state["position"] == steps
        found, cost = fitted(net, digits, recipe, run)
        assert [line["epoch"] for line in run.read_lines()] == list(range(1, cost.epochs + 1))
        assert equal(found, fitted(net, digits, recipe, run)[0])  # finished: loaded
    assert equal(expected, found)


def test_seconds_of_all_sittings_add_up(digits, net, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", math.inf)
    slow = copy.deepcopy(net)

    def step(batch):
        time.sleep(0.02)
        if len(run.read_lines()) == 2:
            raise RuntimeError("plug")
        return LOSS(slow(batch.inputs), batch.targets)

    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(RuntimeError, match="plug"):
            make(slow, digits, PLAIN, run, step=step).run()
        _, cost = fitted(net, digits, PLAIN, run)
    assert cost.training_seconds > 14 * 0.02


def test_early_stopping_restores_the_best(digits, net, tmp_path):
    recipe = Recipe(batch_size=32, learning_rate=0.05, schedule="constant", patience=2)
    with Run(tmp_path / "run", {}) as run:
        weights, cost = fitted(net, digits, recipe, run, epochs=100)
        losses = [line["validation_loss"] for line in run.read_lines()]
    best = losses.index(min(losses))
    assert cost.epochs == len(losses) == best + 3 < 100
    again = copy.deepcopy(net)
    with torch.no_grad():
        for name, tensor in weights_of(again).items():
            tensor.copy_(weights[name])
    assert float(assess(again, digits.validation, LOSS, CPU).loss) == pytest.approx(min(losses), rel=1e-6)


def test_the_moving_average_is_the_result(digits, net):
    plain, _ = fitted(net, digits, PLAIN)
    averaged, _ = fitted(net, digits, Recipe(batch_size=32, ema=0.99))
    assert not equal(plain, averaged)
    assert all(torch.allclose(plain[name], averaged[name], atol=0.1) for name in plain)


def test_divergence_says_where(digits, net):
    with pytest.raises(DivergenceError, match=r"finite loss; got (nan|inf) \(training, epoch \d+, step \d+ of 7\)"):
        make(net, digits, Recipe(batch_size=32, optimizer="sgd", learning_rate=1e20)).run()


def test_weights_that_left_the_finite_numbers_in_the_last_step(digits, net):
    steps = []

    def step(batch):
        steps.append(1)
        factor = 1e37 if len(steps) == 7 else 1e-6
        return LOSS(net(batch.inputs), batch.targets) * factor

    with pytest.raises(
        DivergenceError, match=r"finite weights; got NaN or infinity in 1.weight .*after the last.*lower the"
    ):
        recipe = Recipe(batch_size=32, optimizer="sgd", learning_rate=1e3, weight_decay=0.0, schedule="constant")
        make(net, digits, recipe, epochs=1, step=step).run()


def test_a_checkpoint_of_something_else(digits, net, tmp_path):
    with Run(tmp_path / "run", {}) as run:
        fitted(net, digits, PLAIN, run)
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(CorruptFileError, match=r"checkpoint of this training.*delete this file"):
            make(other, digits, PLAIN, run).run()


SCRIPT = """
    import dataclasses, json, os, random, signal, sys, time
    import torch
    from torch import nn
    import pluriform as pf
    from pluriform.data.data import Split
    from pluriform.runs import Run
    from pluriform.training import loop
    from pluriform.training.checkpoint import Checkpoint

    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.002, 10.0
    folder, mode, seed = sys.argv[1:]
    data = pf.load("digits", seed=0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    method = pf.Training(epochs=20, ema=0.99, patience=5)

    def fit(run=None):
        return method.fit(net, data, run=run).state_dict()

    if mode == "interrupt":
        print("ready", flush=True)
        fit(folder)
        sys.exit()

    def position():
        file = folder + "/checkpoint/training.safetensors"
        if not os.path.exists(file):
            return None
        with Run(folder, json.load(open(folder + "/run.json"))) as run:
            state = Checkpoint.read(run, "checkpoint/training.safetensors").state
        return [state["epoch"], state["position"]]

    expected = fit()
    begin = time.perf_counter()
    fit(folder + "-timed")
    duration = time.perf_counter() - begin
    draw, positions = random.Random(seed), []
    for kill in range(10):
        child = os.fork()
        if child == 0:
            fit(folder)
            os._exit(0)
        time.sleep(draw.uniform(0.05, 0.3) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        positions.append(position())
    found = fit(folder)
    equal = all(torch.equal(found[name], expected[name]) for name in expected)
    print(json.dumps({"equal": equal, "positions": positions}))
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))

    def start(mode):
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run"), mode, "0"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_killed_ten_times_it_ends_with_the_same_weights(script):
    out, err = script("kill").communicate(timeout=200)
    assert out, err
    report = json.loads(out)
    positions = [tuple(position) for position in report["positions"] if position]
    assert positions == sorted(positions)
    assert len(set(positions)) >= 3
    assert any(position > 0 for _, position in positions)
    assert report["equal"]


def test_ctrl_c_saves_and_raises(script, tmp_path):
    process = script("interrupt")
    assert process.stdout.readline() == "ready\n"
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    with Run(tmp_path / "run", json.loads((tmp_path / "run" / "run.json").read_text())) as run:
        state = Checkpoint.read(run, "checkpoint/training.safetensors").state
    assert not state["finished"]
    assert state["epoch"] >= 1


def test_ctrl_c_between_steps_goes_on_bit_for_bit(digits, net, tmp_path):
    expected, _ = fitted(net, digits, FULL)
    stopped, left = copy.deepcopy(net), [10]

    def step(batch):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return LOSS(stopped(batch.inputs), batch.targets)

    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(KeyboardInterrupt):
            make(stopped, digits, FULL, run, step=step).run()
        state = Checkpoint.read(run, "checkpoint/training.safetensors").state
        assert (state["epoch"], state["position"]) == (1, 3)
        assert equal(expected, fitted(net, digits, FULL, run)[0])


def test_columns_are_of_epochs_that_were_validated(digits, net):
    loop = make(net, digits, PLAIN)
    assert loop.columns == {}
    loop.history = [{"epoch": 1, "loss": 3.0}]
    assert loop.columns == {"epoch": [1.0], "loss": [3.0]}
    loop.history.append({"epoch": 2, "loss": 2.0, "validation_loss": 1.0, "extra": 5.0})
    loop.history.append({"epoch": 3, "loss": 1.0, "validation_loss": 0.5})
    assert loop.columns == {"epoch": [2.0, 3.0], "loss": [2.0, 1.0], "validation_loss": [1.0, 0.5]}


def test_ctrl_c_in_the_last_look_at_validation_comes_after_the_result(digits, net, tmp_path):
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return assess(mine, digits.validation, LOSS, CPU)

    mine = copy.deepcopy(net)
    with Run(tmp_path / "run", {}) as run:
        loop = make(mine, digits, PLAIN, run, epochs=2)
        loop.validate = look
        with pytest.raises(KeyboardInterrupt):
            loop.run()
        again = make(copy.deepcopy(net), digits, PLAIN, run, epochs=2)
        again.validate = lambda: pytest.fail("it looked again")
        assert again.run().epochs == 2
        assert equal(weights_of(again.network), weights_of(mine))


def test_validation_that_is_never_a_number_is_no_result(digits, net):
    inputs = digits.validation.inputs.clone()
    inputs[0, 0] = float("nan")
    broken = dataclasses.replace(digits, validation=dataclasses.replace(digits.validation, inputs=inputs))
    with pytest.raises(DivergenceError, match="a finite validation loss"):
        fitted(net, broken, FULL, epochs=2)


def test_a_finished_checkpoint_remembers_the_best_loss(digits, net, tmp_path):
    with Run(tmp_path / "run", {}) as run:
        first = make(copy.deepcopy(net), digits, FULL, run, epochs=2)
        first.run()
        second = make(copy.deepcopy(net), digits, FULL, run, epochs=2)
        second.run()
    assert float(second.stopping.loss) == float(first.stopping.loss) < float("inf")

"""Guard and loop together: what a roll-back does to a training, and to one that is resumed."""

import copy
import logging
import math

import pytest
import torch

from pluriform.errors import DivergenceError
from pluriform.graph.parameters import weights_of
from pluriform.runs import Run
from pluriform.training import loop as loop_file
from pluriform.training.augmentation import Augmentation
from pluriform.training.checkpoint import Checkpoint
from pluriform.training.feed import Feed
from pluriform.training.guard import Guard
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.validation import assess

CPU = torch.device("cpu")
LOSS = Loss("classification")
PLAIN = Recipe(batch_size=32)
RICH = Recipe(batch_size=32, clip_norm=1.0, ema=0.9, augmentation=Augmentation(shift=1))


def bad_at(*steps):
    """A check that refuses the figures of these calls, and counts calls."""
    calls = []

    def check(figures):
        calls.append(figures)
        return "it runs away" if len(calls) - 1 in steps else None

    return check


def make(net, data, recipe=PLAIN, *, check=None, run=None, epochs=4, step=None, guard=None, validate=True, **kwargs):
    guard = guard or Guard(check or bad_at(), lambda: "", every=kwargs.pop("every", 5), **kwargs)
    return Loop(
        net,
        step or (lambda batch: {"loss": LOSS(net(batch.inputs), batch.targets)}),
        Feed(data, recipe.batch_size, 0, recipe.augmentation, CPU),
        recipe,
        seed=0,
        epochs=epochs,
        run=run,
        validate=(lambda: assess(net, data.validation, LOSS, CPU)) if validate else None,
        guard=guard,
    )


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def weights(network):
    return {name: tensor.detach().clone() for name, tensor in weights_of(network).items()}


class TestLoop:
    @pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "rich"])
    def test_a_guard_that_is_content_changes_nothing(self, digits, net, recipe):
        other = copy.deepcopy(net)
        make(net, digits, recipe).run()
        plain = make(other, digits, recipe)
        plain.guard = None
        plain.run()
        assert equal(weights(net), weights(other))

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    @pytest.mark.parametrize("ema", [None, 0.9])
    def test_weights_optimiser_and_averages_come_back_bit_for_bit(self, digits, net, optimizer, ema):
        recipe = Recipe(batch_size=32, optimizer=optimizer, ema=ema)
        seen, states = {}, {}

        class Spy(Guard):
            def keep(self, step, live):
                seen[step] = {name: tensor.clone() for name, tensor in live.items()}
                super().keep(step, live)

            def restore(self, step, live, reason):
                trip = super().restore(step, live, reason)
                states[trip.restored] = {name: tensor.clone() for name, tensor in live.items()}
                return trip

        loop = make(net, digits, recipe, guard=Spy(bad_at(12), lambda: "", every=5))
        loop.run()
        assert list(states) == [10]
        assert equal(seen[10], states[10])
        assert states[10].keys() == seen[10].keys()
        assert any(name.startswith("optimizer") for name in seen[10])

    @pytest.mark.parametrize("steps", [(0,), (0, 1), (0, 1, 2, 3), (1,), (6,), (27,), (26, 27), (0, 27)])
    @pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "rich"])
    def test_trips_at_any_step_are_survived(self, digits, net, steps, recipe):
        loop = make(net, digits, recipe, check=bad_at(*steps))
        cost = loop.run()
        assert [trip.step for trip in loop.guard.trips] == list(steps)
        assert all(0 <= trip.restored <= trip.step for trip in loop.guard.trips)
        assert all(bool(tensor.isfinite().all()) for tensor in weights(net).values())
        assert (cost.steps, cost.epochs) == (28, 4)

    def test_a_trip_at_the_first_step_leaves_the_weights_alone(self, digits, net):
        before = weights(net)
        make(net, digits, epochs=1, check=bad_at(*range(7)), validate=False).run()
        assert equal(before, weights(net))

    def test_what_follows_a_roll_back_is_training_at_half_the_rate(self, digits, net):
        loop = make(net, digits, Recipe(batch_size=32, schedule="constant", warmup=0.0), check=bad_at(7))
        loop.run()
        rates = [row["learning_rate"] for row in loop.history]
        assert rates == pytest.approx([3e-3, 1.5e-3, 1.5e-3, 1.5e-3])

    def test_nan_in_a_weight_is_caught_before_the_update(self, digits, net):
        def step(batch):
            if loop._done == 13:
                net[1].weight.data[0, 0] = math.nan
            return {"loss": LOSS(net(batch.inputs), batch.targets)}

        check = lambda values: None if bool(values["loss"].isfinite()) else "loss is nan"  # noqa: E731
        loop = make(net, digits, step=step, check=check)
        loop.run()
        assert [(trip.step, trip.restored) for trip in loop.guard.trips] == [(13, 10)]
        assert all(bool(tensor.isfinite().all()) for tensor in weights(net).values())

    @pytest.mark.parametrize(("bad", "every"), [(24, 9), (25, 9), (26, 9), (27, 9), (27, 7), (20, 7)])
    @pytest.mark.parametrize("most", [0, 8])
    @pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "rich"])
    def test_nan_gradients_of_late_steps_leave_a_good_model(self, digits, net, bad, every, most, recipe):
        """The loss is finite and the update ruins the weights, be it just before a state is kept or training ends."""

        def step(batch):
            loss = LOSS(net(batch.inputs), batch.targets)
            return {"loss": Spoilt.apply(loss) if loop._done == bad else loss}

        check = lambda values: None if bool(values["loss"].isfinite()) else "loss is nan"  # noqa: E731
        loop = make(net, digits, recipe, step=step, check=check, every=every, most=most)
        loop.run()
        assert all(bool(tensor.isfinite().all()) for tensor in weights(net).values())
        assert len(loop.guard.trips) == 1
        older = most == 0 or (bad, every) == (27, 9)  # None is left, or the newer state is of the update before.
        assert loop.guard.trips[0].restored == (bad // every - older) * every

    def test_past_the_last_roll_back_the_training_ends_with_the_last_good_state(self, digits, net):
        seen = {}

        class Spy(Guard):
            def keep(self, step, live):
                seen[step] = {name: tensor.clone() for name, tensor in live.items()}
                super().keep(step, live)

        loop = make(net, digits, guard=Spy(bad_at(12, 13, 14), lambda: "", every=5, most=2))
        cost = loop.run()
        assert loop.guard.exhausted
        assert [trip.restored for trip in loop.guard.trips] == [10, 5, 5]
        assert cost.steps == 15
        own = {f"weights/{name}": tensor for name, tensor in weights(net).items()}
        assert equal(own, {name: tensor for name, tensor in seen[5].items() if name in own})

    def test_with_averages_the_end_is_the_average_of_the_good_state(self, digits, net):
        loop = make(net, digits, RICH, check=bad_at(12), most=0)
        loop.run()
        average = loop.average.weights
        assert equal(weights(net), average)
        other = copy.deepcopy(net)
        assert all(bool(t.isfinite().all()) for t in weights(other).values())

    def test_early_stopping_gives_its_best_also_after_trips(self, digits, net):
        recipe = Recipe(batch_size=32, patience=2)
        loop = make(net, digits, recipe, check=bad_at(8, 9, 20), epochs=6)
        loop.run()
        assert equal(weights(net), loop.stopping.best)
        assert len(loop.guard.trips) == 3

    def test_an_epoch_of_trips_only(self, digits, net, tmp_path):
        with Run(tmp_path, {}) as run:
            loop = make(net, digits, check=bad_at(*range(7, 14)), run=run, most=20)
            loop.run()
            lines = run.read_lines()
        assert len([line for line in lines if "roll_back" in line]) == 7
        assert [row["epoch"] for row in loop.history] == [1, 2, 3, 4]
        assert loop.columns["epoch"] == [1, 3, 4]
        assert len(loop.columns["loss"]) == 3

    def test_means_of_an_epoch_are_those_of_the_steps_that_count(self, digits, net):
        step = lambda batch: {"loss": LOSS(net(batch.inputs), batch.targets) * 0 + 7.0}  # noqa: E731
        loop = make(net, digits, step=step, check=bad_at(8, 9, 11))
        loop.run()
        assert [row["loss"] for row in loop.history] == pytest.approx([7.0] * 4)

    def test_a_line_says_what_happened_and_what_was_changed(self, digits, net, tmp_path, caplog):
        with caplog.at_level(logging.WARNING, "pluriform"), Run(tmp_path, {}) as run:
            loop = make(net, digits, check=bad_at(12), run=run)
            loop.run()
            (line,) = [line for line in run.read_lines() if "roll_back" in line]
        assert line["epoch"] == 2
        assert line["roll_back"] == loop.guard.trips[0].to_json()
        assert "step 12: it runs away; back to step 10; learning rate halved" in caplog.text

    def test_without_a_guard_the_same_fault_ends_in_an_error(self, digits, net):
        loop = make(net, digits, step=lambda batch: {"loss": LOSS(net(batch.inputs), batch.targets) * math.nan})
        loop.guard = None
        with pytest.raises(DivergenceError):
            loop.run()


class Spoilt(torch.autograd.Function):
    """The identity with gradients of NaN."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class TestResume:
    """Interrupted before or after roll-backs, a training ends bit for bit like one that was not."""

    @pytest.mark.parametrize("recipe", [PLAIN, RICH, Recipe(batch_size=32, optimizer="sgd", patience=3)])
    @pytest.mark.parametrize("stop", [1, 6, 11, 13, 14, 20])
    def test_with_roll_backs_on_both_sides(self, digits, net, tmp_path, recipe, stop):
        bad = (12, 17, 22)
        whole, halves = copy.deepcopy(net), copy.deepcopy(net)
        full = by_step(whole, digits, recipe, bad)
        full.run()
        with Run(tmp_path, {}) as run:
            first = by_step(copy.deepcopy(net), digits, recipe, bad, run, stop=stop)
            with pytest.raises(KeyboardInterrupt):
                first.run()
        with Run(tmp_path, {}) as run:
            second = by_step(halves, digits, recipe, bad, run)
            second.run()
            lines = [line["roll_back"] for line in run.read_lines() if "roll_back" in line]
        assert equal(weights(whole), weights(halves))
        assert second.guard.trips == full.guard.trips
        assert second.guard.rate == full.guard.rate == 1 / 64  # Halved, then a quarter, then an eighth of it.
        assert lines == [trip.to_json() for trip in full.guard.trips]
        kept = [{k: v for k, v in row.items() if k != "seconds"} for row in full.history]
        assert [{k: v for k, v in row.items() if k != "seconds"} for row in second.history] == kept

    def test_a_finished_one_gives_weights_extras_and_trips(self, digits, net, tmp_path):
        extra = {"chains": torch.zeros(3)}
        with Run(tmp_path, {}) as run:
            loop = by_step(net, digits, PLAIN, (12,), run, extra=extra)
            loop.run()
        fresh, again = {"chains": torch.zeros(3)}, copy.deepcopy(net)
        for parameter in again.parameters():
            parameter.data.fill_(5.0)
        with Run(tmp_path, {}) as run:
            second = by_step(again, digits, PLAIN, (12,), run, extra=fresh)
            second.run()
        assert equal(weights(net), weights(again))
        assert float(extra["chains"][0]) == 28
        assert torch.equal(extra["chains"], fresh["chains"])
        assert second.guard.trips == loop.guard.trips

    def test_an_exhausted_one_stays_ended(self, digits, net, tmp_path):
        with Run(tmp_path, {}) as run:
            loop = by_step(net, digits, PLAIN, (12,), run, most=0)
            cost = loop.run()
        again = copy.deepcopy(net)
        with Run(tmp_path, {}) as run:
            second = by_step(again, digits, PLAIN, (12,), run, most=0)
            assert second.run().steps == cost.steps
        assert second.guard.exhausted
        assert second.guard.rate == loop.guard.rate == 1.0
        assert equal(weights(net), weights(again))

    def test_checkpoints_hold_no_guard_where_there_is_none(self, digits, net, tmp_path):
        with Run(tmp_path, {}) as run:
            loop = make(net, digits, run=run)
            loop.guard = None
            loop.run()
            assert "guard" not in Checkpoint.read(run, loop.file).state


def by_step(net, data, recipe, bad, run=None, *, stop=None, extra=None, **kwargs):
    """A loop whose guard refuses certain steps, whose extra tensor counts steps, and which Ctrl-C may stop."""
    count = extra or {"chains": torch.zeros(3)}

    def step(batch):
        count["chains"] += 1
        fault = torch.tensor(float(loop._done in bad))
        noise = torch.randn(()) * 1e-3
        return {"loss": LOSS(net(batch.inputs), batch.targets) * (1 + noise), "fault": fault}

    guard = Guard(lambda values: "bad" if float(values["fault"]) else None, lambda: "", every=5, **kwargs)
    loop = make(net, data, recipe, guard=guard, run=run, step=step)
    loop.extra = count
    if stop is not None:
        due = loop._due

        def interrupted(interval):
            if loop._done >= stop and interval:
                loop._save()
                raise KeyboardInterrupt
            return due(interval)

        loop._due = interrupted
    return loop


def test_checkpoints_may_be_written_at_every_step(digits, net, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_file, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop_file, "CHECKPOINT_SHARE", 1e9)
    other = copy.deepcopy(net)
    with Run(tmp_path, {}) as run:
        by_step(net, digits, RICH, (3, 12), run).run()
    by_step(other, digits, RICH, (3, 12)).run()
    assert equal(weights(net), weights(other))

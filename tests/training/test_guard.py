import math

import pytest
import torch

from pluriform.training.guard import Guard, Trip


def live(value):
    return {"weights/a": torch.full((3,), float(value)), "optimizer/0/step": torch.tensor(float(value))}


def guard(**changes):
    return Guard(lambda _: None, lambda: "", **changes)


class TestStates:
    def test_the_first_state_is_kept_and_then_one_in_so_many(self):
        kept = guard(every=10)
        for step in range(46):
            kept.keep(step, live(step))
        assert kept.state()["kept"] == [30, 40]
        assert {name: float(tensor.max()) for name, tensor in kept.tensors().items()} == {
            "0/weights/a": 30,
            "0/optimizer/0/step": 30,
            "1/weights/a": 40,
            "1/optimizer/0/step": 40,
        }

    def test_a_state_is_a_copy(self):
        kept, tensors = guard(), live(1)
        kept.keep(0, tensors)
        tensors["weights/a"].fill_(9)
        trip = kept.restore(5, tensors, "reason")
        assert torch.equal(tensors["weights/a"], torch.ones(3))
        assert trip == Trip(5, "reason", 0, "learning rate halved")
        tensors["weights/a"].fill_(8)
        kept.restore(500, tensors, "again")
        assert torch.equal(tensors["weights/a"], torch.ones(3))

    def test_tensors_that_came_later_become_zero(self):
        kept, tensors = guard(), live(1)
        kept.keep(0, {"weights/a": tensors["weights/a"]})
        kept.restore(3, tensors, "reason")
        assert float(tensors["optimizer/0/step"]) == 0

    def test_a_second_trip_soon_after_goes_further_back(self):
        kept, tensors = guard(every=10), live(0)
        for step in range(26):
            kept.keep(step, live(step))
        assert kept.restore(26, tensors, "one").restored == 20
        assert kept.restore(33, tensors, "two").restored == 10
        assert kept.restore(34, tensors, "three").restored == 10
        assert float(tensors["weights/a"][0]) == 10

    def test_a_second_trip_much_later_goes_to_the_latest(self):
        kept, tensors = guard(every=10), live(0)
        for step in range(26):
            kept.keep(step, live(step))
        kept.restore(26, tensors, "one")
        for step in range(27, 45):
            kept.keep(step, live(step))
        assert kept.restore(45, tensors, "two").restored == 36

    def test_a_state_that_is_not_finite_is_never_kept(self):
        kept, tensors = guard(every=10), live(math.nan)
        for step in range(10):
            kept.keep(step, live(step))
        for _ in range(15):
            kept.keep(10, live(math.nan))
        assert kept.state()["kept"] == [0]
        kept.keep(25, live(25))
        assert kept.state()["kept"] == [0, 25]
        assert kept.restore(31, tensors, "reason").restored == 25

    @pytest.mark.parametrize(("step", "restored"), [(20, 10), (24, 10), (25, 20), (29, 20)])
    def test_a_state_that_was_only_just_kept_may_be_of_the_runaway(self, step, restored):
        kept = guard(every=10)
        for done in range(step + 1):
            kept.keep(done, live(done))
        assert kept.restore(step, live(0), "reason").restored == restored

    def test_the_end_is_a_state_from_before_the_runaway_began(self):
        kept = guard(every=10, most=0)
        for step in range(26):
            kept.keep(step, live(step))
        assert kept.restore(26, live(0), "reason").restored == 10
        assert kept.exhausted

    def test_each_trip_halves_the_rate_and_the_last_ends(self):
        steps, softened = [], []
        kept = Guard(lambda _: None, lambda: f"{softened.append(1)}x", afterwards=steps.append, most=2)
        kept.keep(0, live(0))
        changes = [kept.restore(step, live(9), "reason").change for step in (5, 300, 700)]
        assert changes[:2] == ["learning rate halved, Nonex"] * 2
        assert "ends here" in changes[2]
        assert (kept.rate, len(softened), kept.exhausted, steps) == (0.25, 2, True, [0, 0, 0])

    def test_trips_in_a_row_lower_the_rate_ever_more(self):
        kept = guard(every=10)
        kept.keep(0, live(0))
        trips = [kept.restore(step, live(9), "reason") for step in (20, 25, 34, 50)]
        words = ["halved", "divided by 4", "divided by 8", "halved"]
        assert [trip.change for trip in trips] == [f"learning rate {word}" for word in words]
        assert kept.rate == 2 ** -(1 + 2 + 3 + 1)

    def test_the_rate_comes_back_after_long_enough_and_never_above_one(self):
        kept = guard(every=5)
        kept.keep(0, live(0))
        for step in (1, 7):
            kept.restore(step, live(9), "reason")
        rates = []
        for step in range(3, 160):
            kept.keep(step, live(step))
            rates.append(kept.rate)
        assert [rates.index(rate) for rate in (0.25, 0.5, 1.0)] == [0, 49, 99]
        assert rates[-1] == 1.0

    def test_a_resumed_one_is_the_same(self):
        first, softened = guard(every=10, most=3), []
        for step in range(26):
            first.keep(step, live(step))
        first.restore(26, live(0), "one")
        second = Guard(lambda _: None, lambda: f"{softened.append(1)}", every=10, most=3)
        second.resume(first.state(), first.tensors())
        assert (second.rate, second.trips, len(softened)) == (first.rate, first.trips, 1)
        assert second.state() == first.state()
        for kept in (first, second):
            for step in range(27, 31):
                kept.keep(step, live(step))
        one, two = live(0), live(0)
        assert first.restore(31, one, "two").restored == second.restore(31, two, "two").restored == 10
        assert torch.equal(one["weights/a"], two["weights/a"])

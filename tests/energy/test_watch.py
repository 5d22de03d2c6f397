import math

import pytest
import torch

from pluriform.energy.watch import Watch


def figures(**changed):
    good = {"loss": 1.0, "cross_entropy": 0.5, "gap": 0.0, "largest_score": 5.0, "input_gradient": 1.0, "reach": 1.0}
    return {name: torch.tensor(value) for name, value in (good | changed).items()}


def test_good_figures_pass():
    watch = Watch()
    assert all(watch.check(figures(gap=math.sin(i))) is None for i in range(500))
    assert int(watch.state["seen"]) == 500


@pytest.mark.parametrize("name", ["loss", "cross_entropy", "largest_score", "input_gradient", "reach", "gap"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_named(name, value):
    watch = Watch()
    assert name in watch.check(figures(**{name: value}))
    assert int(watch.state["seen"]) == 0


@pytest.mark.parametrize(
    ("name", "limit"),
    [("loss", 1e5), ("cross_entropy", 100.0), ("largest_score", 1e4), ("input_gradient", 1e5), ("reach", 100.0)],
)
def test_limits(name, limit):
    assert Watch().check(figures(**{name: 0.99 * limit})) is None
    assert f"{name} is" in Watch().check(figures(**{name: 1.01 * limit}))
    assert Watch().check(figures(**{name: -1.01 * limit})) is not None


def test_a_gap_that_leaves_its_past():
    watch = Watch()
    generator = torch.Generator().manual_seed(0)
    for value in torch.randn(200, generator=generator).tolist():
        assert watch.check(figures(gap=3 + 4 * value)) is None
    past = watch.state["gap"].median()
    spread = float((watch.state["gap"] - past).abs().median())
    assert watch.check(figures(gap=float(past) + 29 * spread)) is None
    assert "deviations from its median" in watch.check(figures(gap=float(past) - 32 * spread))


def test_a_quiet_past_counts_as_a_spread_of_one():
    watch = Watch()
    for _ in range(100):
        watch.check(figures(gap=2.0))
    assert watch.check(figures(gap=31.0)) is None
    assert watch.check(figures(gap=34.0)) is not None


def test_the_first_steps_have_no_past():
    watch = Watch()
    assert all(watch.check(figures(gap=100.0 * i)) is None for i in range(49))


def test_what_was_wrong_is_no_part_of_the_past():
    watch = Watch()
    for _ in range(60):
        watch.check(figures())
    for _ in range(200):
        assert watch.check(figures(gap=500.0)) is not None
    assert int(watch.state["seen"]) == 60


def test_only_the_last_two_hundred_count():
    watch = Watch()
    for step in range(2000):
        assert watch.check(figures(gap=step * 0.1)) is None
    assert watch.check(figures(gap=0.0)) is not None


def test_a_network_that_guesses_again_is_noticed_and_better_ones_are_not():
    watch = Watch()
    for step in range(300):
        assert watch.check(figures(cross_entropy=0.2 + 2.1 * 0.97**step)) is None
    assert watch.check(figures(cross_entropy=0.9)) is None
    assert "cross_entropy is 2.3" in watch.check(figures(cross_entropy=2.3))
    assert watch.check(figures(cross_entropy=0.0)) is None


def test_what_was_refused_does_not_become_usual():
    watch = Watch()
    for _ in range(60):
        watch.check(figures())
    refused = [watch.check(figures(cross_entropy=2.3)) for _ in range(300)]
    assert all(refused)
    assert int(watch.state["seen"]) == 60


def test_figures_that_are_missing_are_not_missed():
    assert Watch().check({"loss": torch.tensor(1.0)}) is None
    assert Watch().check({"loss": torch.tensor(math.nan)}) is not None


def test_figures_of_members_count_by_their_mean_and_need_no_gradient():
    loss = torch.ones(3, requires_grad=True) * 2
    watch = Watch()
    assert watch.check({"loss": loss}) is None
    assert watch.check({"loss": torch.tensor([1.0, math.nan])}) is not None

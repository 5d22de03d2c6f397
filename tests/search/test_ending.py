"""The end of a search: training on, and from scratch, within the time that is left."""

import dataclasses

import pytest
import torch

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import ConfigError
from pluriform.search.budget import Budget
from pluriform.search.ending import ending_of, most_ending_seconds, next_ending
from pluriform.search.journal import Trial
from pluriform.search.plan import Plan
from pluriform.search.trial import Common, Task, network_of, reset
from pluriform.training.recipe import Recipe


def plan(minutes=None, final=0.3, retrained=0, max_latency=None):
    budget = Budget(None, minutes)
    return Plan(budget, None, 5, final, retrained, "mutate", "parameters", 0.0, None, max_latency, "serial", 1, 0)


def done(number, score, seconds=10.0, steps=100, **facts):
    figures = {"parameters": 10, "latency": 1.0 + number, "seconds": seconds, "steps": steps, "epochs": 2.0}
    return Trial(number, 0, key=facts.pop("key", str(number)), state="done", told=number, score=score,
                 figures=figures | {"total_epochs": 7.0}, **facts)  # fmt: skip


def test_the_best_goes_on_and_the_best_different_ones_begin_anew():
    trials = [done(0, 0.5), done(1, 0.9), done(2, 0.7), done(3, 0.95, key="1", plan={"final": True})]
    endings = ending_of(trials, plan(retrained=2))
    assert [(ending.of.number, ending.scratch) for ending in endings] == [(3, False), (2, True), (0, True)]
    endings = ending_of(trials[:3], plan(retrained=2, max_latency=2.5))
    assert [(ending.of.number, ending.scratch) for ending in endings] == [(1, False), (1, True), (0, True)]
    assert ending_of(trials, plan(final=0)) == []
    assert ending_of([], plan()) == []


def test_lengths_without_and_with_a_limit_of_time():
    best = done(1, 0.9)
    on, anew = ending_of([best], plan(retrained=1))
    trial = next_ending(on, 2, [best] * 10, plan(), 4, 50)
    assert (trial.parent, trial.plan["epochs"], trial.plan["steps"]) == (1, 12, 50)  # 0.3 * 10 trials * 4 epochs
    trial = next_ending(anew, 1, [best] * 10, plan(), 4, 50)
    assert (trial.plan["epochs"], trial.plan["scratch"]) == (7, True)  # as its lineage had
    timed = plan(minutes=1)
    trial = next_ending(on, 2, [best], timed, 4, 50)
    assert "most" not in trial.plan
    assert next_ending(on, 1, [best], timed, 4, 50).plan["most"] == 200
    assert next_ending(anew, 1, [best], timed, 4, 50).plan["most"] == 7
    assert (trial.plan["epochs"], trial.plan["steps"]) == (6, 47)  # 0.95 * 60 s / 2 trainings / 0.1 s a step, and a bit
    best.figures.update(step_seconds=0.02, look_seconds=1.5)  # 0.05 s a step with its share of the looks
    trial = next_ending(on, 2, [best], timed, 4, 50)
    assert trial.plan["epochs"] == 12
    best.figures.update(step_seconds=0.1, look_seconds=0.0)
    late = dataclasses.replace(timed, budget=dataclasses.replace(timed.budget, earlier=55.0))
    assert next_ending(on, 1, [best], late, 4, 400).plan["epochs"] == 1
    assert 40 < next_ending(on, 1, [best], late, 4, 400).plan["steps"] < 50
    gone = dataclasses.replace(timed, budget=dataclasses.replace(timed.budget, earlier=61.0))
    assert next_ending(on, 1, [best], gone, 4, 50) is None


def test_no_more_time_is_kept_for_the_end_than_it_needs():
    best = done(1, 0.9)
    assert most_ending_seconds([], plan(minutes=60), 20) == pytest.approx(0.3 * 3600)
    assert most_ending_seconds([best], plan(minutes=60), 20) == pytest.approx(200 * 20 * 0.1 / 0.95)
    assert most_ending_seconds([best], plan(minutes=60, retrained=1), 20) == pytest.approx(2 * 200 * 20 * 0.1 / 0.95)
    assert most_ending_seconds([best], plan(minutes=1), 20) == pytest.approx(18.0)


def test_fresh_weights_come_from_the_seed_alone():
    data = pf.load("digits")
    common = Common(pf.nets.build("lenet", data, seed=1), data, Recipe(), "cpu")
    nets = [network_of(Task(9, "", seed=seed, scratch=True), common).module for seed in (3, 3, 4)]
    first, same, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    state = torch.random.get_rng_state()
    reset(nets[0], 5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_both_scores_are_on_record_and_the_better_comes_out():
    digits = pf.load("digits", validation=0.2)
    data = dataclasses.replace(digits, train=Split(*digits.train.batch(torch.arange(300))))
    method = pf.MorphismSearch(trials=3, epochs=2, final=0.4, retrain=2, strategy="mutate")
    form = method.fit(pf.nets.build("mlp", data), data, seed=1)
    trials = form.facts["trials"]
    assert [trial["operation"] for trial in trials[3:]] == ["train on", "from scratch", "from scratch"]
    on, *anew = trials[3:]
    assert on["untrained"] == max(trial["score"] for trial in trials[:3])
    for trial in anew:
        assert trial["total_epochs"] == trial["epochs"] == trials[trial["parent"]]["total_epochs"]
        assert "untrained" not in trial
    assert len({trial["parent"] for trial in anew}) == 2
    assert trials[form.facts["best"]]["score"] == max(trial["score"] for trial in trials)


def test_retraining_needs_a_share_of_the_budget():
    with pytest.raises(ConfigError, match="final: a share above 0"):
        pf.MorphismSearch(retrain=1, final=0)
    with pytest.raises(ConfigError, match="retrain: 0 or more"):
        pf.MorphismSearch(retrain=-1)


def test_of_one_architecture_its_best_trial_counts():
    """Architecture 1 was met twice: its worst trial does not put it behind another one."""
    trials = [done(0, 0.5), done(1, 0.9), done(2, 0.7), done(3, 0.6, key="1")]
    endings = ending_of(trials, plan(retrained=1))
    assert [(ending.of.number, ending.scratch) for ending in endings] == [(1, False), (1, True)]


def test_what_is_trained_on_has_weights():
    trials = [done(0, 0.5), done(1, 0.9), done(2, 0.7)]
    endings = ending_of(trials, plan(retrained=1), usable=[trials[0], trials[2]])
    assert [(ending.of.number, ending.scratch) for ending in endings] == [(2, False), (1, True)]

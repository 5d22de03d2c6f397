"""Bayesian strategies: resume, pending candidates, plain spaces, and whether they find what simple rivals do not."""

import numpy as np
import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.search.acquisition import acquisition, expected_improvement, upper_confidence_bound
from pluriform.search.annealed_search import Annealing
from pluriform.search.auto_keras import AutoKeras, PublishedProcess, published_embedding
from pluriform.search.bayesian_search import BayesianSearch
from pluriform.search.benchmark_tables import nas_bench_macro
from pluriform.search.candidate_model import milestone
from pluriform.search.mutate_incumbent import MutateIncumbent
from pluriform.search.random_search import RandomSearch
from pluriform.search.surrogate import Belief
from pluriform.search.table import Table, replay


class Words:
    """Only the three methods: words of four letters, by Hamming distance."""

    def random(self, generator):
        return "".join(generator.choice(list("abcd"), size=4))

    def neighbours(self, candidate):
        return [candidate[:i] + c + candidate[i + 1 :] for i in range(4) for c in "abcd" if c != candidate[i]]

    def distance(self, a, b):
        return sum(x != y for x, y in zip(a, b, strict=True))


def worth(word):
    effects = np.random.default_rng(5).standard_normal((4, 4))
    pairs = np.random.default_rng(6).standard_normal((4, 4, 4))
    letters = ["abcd".index(c) for c in word]
    single = sum(effects[i, letter] for i, letter in enumerate(letters))
    return float(single + 0.5 * sum(pairs[i, letters[i], letters[(i + 1) % 4]] for i in range(4)))


def search(strategy, evaluations, score=worth):
    asked = []
    for _ in range(evaluations):
        candidate = strategy.ask()
        asked.append(candidate)
        strategy.tell(candidate, score(candidate))
    return asked


def quick(space, **given):
    return AutoKeras(space, annealing=Annealing(decay=0.6, lookahead=8), **given)


MAKERS = [BayesianSearch, quick, lambda space, **given: quick(space, repaired=False, **given)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("cut", [12, 19])
def test_resume_gives_the_same_proposals(make, cut):
    asked = search(make(Words(), seed=3), 24)
    assert len(set(asked)) == 24
    resumed = make(Words(), seed=3)
    for candidate in asked[:cut]:
        resumed.tell(candidate, worth(candidate))
    assert search(resumed, 24 - cut) == asked[cut:]


@pytest.mark.parametrize("make", MAKERS)
def test_pending_survive_a_resume_and_global_generators_are_left_alone(make):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    lived = make(Words(), seed=1)
    search(lived, 14)
    waiting = [lived.ask() for _ in range(3)]
    assert len(set(waiting)) == 3
    resumed = make(Words(), seed=1)
    for one in lived.trials.observed:
        resumed.tell(one.candidate, one.score)
    for candidate in waiting:
        resumed.trials.expect(candidate)
    for strategy in (lived, resumed):
        strategy.tell(waiting[2], worth(waiting[2]))
    assert [lived.ask() for _ in range(2)] == [resumed.ask() for _ in range(2)]
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_minimising_is_maximising_the_negative():
    up = search(BayesianSearch(Words(), seed=2), 20)
    down = search(BayesianSearch(Words(), seed=2, direction="minimize"), 20, lambda word: -worth(word))
    assert up == down


def test_finds_the_best_word_of_256_in_45_where_random_search_does_not():
    words = [a + b + c + d for a in "abcd" for b in "abcd" for c in "abcd" for d in "abcd"]
    best = max(map(worth, words))
    found = [max(map(worth, search(BayesianSearch(Words(), seed=seed), 45))) for seed in range(3)]
    drawn = [max(map(worth, search(RandomSearch(Words(), seed=seed), 45))) for seed in range(3)]
    assert found.count(best) >= 2
    assert np.mean(drawn) < best - 0.3


def test_on_nas_bench_macro_it_beats_the_incumbent_s_mutants_at_fifty():
    table = nas_bench_macro()
    ours = [replay(BayesianSearch(table, seed=seed), table, 50).regret[-1] for seed in range(2000, 2003)]
    theirs = [replay(MutateIncumbent(table, seed=seed), table, 50).regret[-1] for seed in range(2000, 2020)]
    assert np.mean(ours) < np.mean(theirs)
    assert np.mean(ours) < 0.08


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1.0), ("minimize", -1.0)])
def test_predicts_in_units_of_the_score(direction, sign):
    def score(word):
        return 50.0 + sign * 10.0 * worth(word)

    strategy = BayesianSearch(Words(), seed=0, direction=direction, initial=30)
    search(strategy, 30, score)
    new = [a + b + c + d for a in "abcd" for b in "abcd" for c in "abcd" for d in "abcd"]
    new = [word for word in new if word not in strategy.trials]
    truth = np.array([score(word) for word in new])
    belief = strategy.predict(new)
    assert np.corrcoef(belief.mean, truth)[0, 1] > 0.6
    assert abs(belief.mean.mean() - truth.mean()) < 0.5 * truth.std()
    assert 0.3 * truth.std() < belief.deviation.mean() < 1.5 * truth.std()


def test_known_variances_are_taken_into_account():
    sure, unsure = (BayesianSearch(Words(), seed=0) for _ in range(2))
    generator = np.random.default_rng(0)
    for word in [Words().random(generator) for _ in range(30)]:
        sure.tell(word, worth(word), 0.0)
        unsure.tell(word, worth(word), 4.0)
    words = [one.candidate for one in sure.trials.observed]
    assert unsure.predict(words).deviation.mean() > sure.predict(words).deviation.mean()


def test_that_a_candidate_is_pending_says_nothing_about_it():
    strategy = BayesianSearch(Words(), seed=0, initial=8)
    search(strategy, 12)
    before = strategy.predict([word for word in Words().neighbours("abcd") if word not in strategy.trials])
    waiting = [strategy.ask() for _ in range(3)]
    new = [word for word in Words().neighbours("abcd") if word not in strategy.trials]
    fresh = BayesianSearch(Words(), seed=0, initial=8)
    for one in strategy.trials.observed:
        fresh.tell(one.candidate, one.score)
    for word in waiting[:2]:
        fresh.trials.expect(word)
    assert strategy.predict(waiting[2:]).deviation == pytest.approx(fresh.predict(waiting[2:]).deviation, rel=1e-9)
    assert list(strategy.trials.pending) == waiting
    assert strategy.predict(new).deviation.mean() < before.deviation.mean() + 1e-9


def test_climbs_are_their_own_where_candidates_fail():
    """Members of a climb are those asked for at odd places, however many failed before."""
    strategy = BayesianSearch(Words(), seed=4, initial=5, patience=4)
    climbed = []
    for place in range(40):
        climb = strategy._climb()
        if climb is not None:
            assert {one.candidate for one in climb} <= set(climbed)
            climbed.append(candidate := strategy.ask())
        else:
            candidate = strategy.ask()
        strategy.tell(candidate, float("nan") if place in (2, 11, 12, 20) else min(worth(candidate), 1.0))
    assert len(climbed) > 8


def test_a_table_of_few_networks_is_searched_better_than_at_random():
    """A tenth of the words: hardly any has a neighbour in the table."""
    words = sorted({Words().random(np.random.default_rng(seed)) for seed in range(60)})

    class Sparse(Words):
        def random(self, generator):
            return words[int(generator.integers(len(words)))]

        def neighbours(self, candidate):
            return [word for word in super().neighbours(candidate) if word in words]

    best = max(map(worth, words))
    ours = [max(map(worth, search(BayesianSearch(Sparse(), seed=seed, initial=6), 18))) for seed in range(12)]
    drawn = [max(map(worth, search(RandomSearch(Sparse(), seed=seed), 18))) for seed in range(12)]
    assert ours.count(best) > drawn.count(best) + 3


@pytest.mark.parametrize("kernel", ["one-hot", "weisfeiler-lehman"])
def test_other_kernels_stand_behind_the_same_interface(kernel):
    table = Table(
        "sum", (3, 3, 3), *({(i, j, k): i + 2 * j - k for i in range(3) for j in range(3) for k in range(3)},) * 2
    )
    if kernel == "weisfeiler-lehman":
        object.__setattr__(table, "labelled_graph", lambda c: ([f"{i}:{x}" for i, x in enumerate(c)], [(0, 1), (1, 2)]))
    strategy = BayesianSearch(table, seed=0, kernel=kernel)
    assert replay(strategy, table, 18).regret[-1] == 0.0
    with pytest.raises(ConfigError, match=r'use kernel="distance"'):
        BayesianSearch(Words(), kernel=kernel)


def test_prior_mean_takes_covariates():
    strategy = BayesianSearch(Words(), seed=0, covariates=lambda word: [word.count("a")])
    search(strategy, 15, lambda word: float(10 * word.count("a")))
    assert strategy.trials.best.candidate == "aaaa"


def test_a_failed_candidate_is_no_observation():
    strategy = BayesianSearch(Words(), seed=0)
    search(strategy, 25, lambda word: float("nan") if word[0] == "a" else worth(word))
    assert strategy.trials.failed
    assert all(one.candidate[0] != "a" for one in strategy.trials.observed)


def test_acquisitions_against_quadrature_and_limits():
    belief = Belief(np.array([0.3, -1.0, 2.0]), np.array([0.5, 2.0, 0.0]))
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    expected = [np.trapezoid(np.maximum(m + s * grid - 0.7, 0) * density, grid) for m, s in
                zip(belief.mean, belief.deviation, strict=True)]  # fmt: skip
    assert np.allclose(expected_improvement(belief, 0.7), expected, atol=1e-7)
    assert upper_confidence_bound(belief, 2.0).tolist() == [1.3, 3.0, 2.0]
    draws = np.array([acquisition("thompson")(belief, 0.0, np.random.default_rng(i)) for i in range(4000)])
    assert np.allclose(draws.mean(0), belief.mean, atol=0.15)
    assert np.allclose(draws.std(0), belief.deviation, rtol=0.1)


def test_scales_are_fitted_ever_more_rarely():
    fitted = sorted({milestone(count) for count in range(1, 151)})
    assert fitted[:5] == [1, 2, 3, 4, 5]
    assert len(fitted) < 22
    assert all(milestone(count) <= count for count in range(1, 151))


def test_published_process_has_the_faults_that_were_read():
    generator = np.random.default_rng(0)
    x = generator.random((100, 3)) * 6
    d = np.abs(x[:, None] - x[None]).sum(2)
    assert published_embedding(d).shape[1] == 5 + 4 + 3 + 2 + 1  # Repetitions shrink at every scale.
    assert published_embedding(d[:1, :1]).shape == (1, 0)
    single = PublishedProcess(np.zeros((1, 1)), np.array([0.3]))
    assert single.weights[0] == pytest.approx(0.3e10)  # The distance is returned as the kernel.
    process = PublishedProcess(d, generator.random(100))
    far = process.lower_bound(np.full((1, 100), 50.0), 2.576)
    assert far == pytest.approx([-2.576])  # Away from the data it knows only that it is away.


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="ei or thompson or ucb"):
        BayesianSearch(Words(), acquisition="best")
    with pytest.raises(ConfigError, match="distance or one-hot"):
        BayesianSearch(Words(), kernel="rbf")
    with pytest.raises(ConfigError, match="one parent"):
        BayesianSearch(Words(), parents=0)

"""The acquisition search against exhaustive search, and its bounds."""

import numpy as np
import pytest
import torch

from pluriform.errors import ConfigError
from pluriform.search.annealed_search import Annealing, annealed_search


def tree(candidate):
    """Words of a, b and c up to four letters."""
    return [candidate + letter for letter in "abc"] if len(candidate) < 4 else []


def worth(words):
    return np.array([np.random.default_rng([*map(ord, word), 7]).standard_normal() for word in words])


def every_word():
    words = [""]
    for word in words:
        words.extend(tree(word))
    return words


@pytest.mark.parametrize("acceptance", ["key", "popped"])
def test_hot_and_with_all_moves_it_is_exhaustive(acceptance):
    annealing = Annealing(start=1e6, decay=0.99, lowest=1e3, children=None, acceptance=acceptance)
    found = annealed_search({"": 0.5}, tree, worth, np.random.default_rng(0), annealing=annealing, count=5)
    words = every_word()[1:]
    assert len(found.steps) == len(words) == 120
    ranked = sorted(words, key=lambda word: worth([word])[0])
    assert list(found.best) == ranked[:5]


def test_at_defaults_at_most_88_pops_and_704_scores():
    scored = []

    def score(numbers):
        scored.extend(numbers)
        return np.array([float(np.sin(number)) for number in numbers])

    found = annealed_search({0: 0.0}, lambda n: [n * 20 + i + 1 for i in range(20)], score, np.random.default_rng(0))
    assert found.pops <= 88
    assert 300 < len(scored) <= 704
    assert len(scored) == len(set(scored))


def test_cold_it_refuses_what_is_worse_and_hot_it_takes_it():
    def score(words):
        return np.full(len(words), 5.0)

    cold = annealed_search({"": 0.0}, tree, score, np.random.default_rng(0), annealing=Annealing(start=1e-2))
    hot = annealed_search({"": 0.0}, tree, score, np.random.default_rng(0), annealing=Annealing(start=1e9, lowest=1e6))
    assert not any(step.accepted for step in cold.steps)
    assert len(cold.steps) == 3
    assert all(step.accepted for step in hot.steps)
    assert hot.pops > 50


def test_acceptance_follows_its_probability():
    accepted = 0
    for seed in range(400):
        annealing = Annealing(start=2.0, decay=0.5, lowest=0.9)  # One pop at temperature 1.
        found = annealed_search(
            {0: 0.0},
            lambda n: [n + 1],
            lambda ns: np.array([0.7] * len(ns)),
            np.random.default_rng(seed),
            annealing=annealing,
        )
        accepted += found.steps[0].accepted
    assert abs(accepted / 400 - np.exp(-0.7)) < 4 * np.sqrt(0.25 / 400)


def test_same_seed_same_trace_and_global_generators_left_alone():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    runs = [annealed_search({"": 0.5}, tree, worth, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert runs[0].steps == runs[1].steps != runs[2].steps
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_known_candidates_are_walked_through_and_never_brought_back():
    found = annealed_search(
        {"": 0.5},
        tree,
        lambda words: np.array([-1.0 if word == "a" else -2.0 if word == "ab" else 3.0 for word in words]),
        np.random.default_rng(0),
        known=lambda word: word in ("", "a"),
    )
    assert found.best == ("ab",)


def test_a_stop_flag_ends_it():
    asked = iter([False, False, True])
    found = annealed_search({"": 0.5}, tree, worth, np.random.default_rng(0), stop=lambda: next(asked))
    assert found.pops == 2


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="decay in"):
        Annealing(decay=1.0)
    with pytest.raises(ConfigError, match='acceptance "key" or "popped"'):
        Annealing(acceptance="always")

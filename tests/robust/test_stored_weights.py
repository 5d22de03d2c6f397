"""Names of a file against those of a network, where the file is large on purpose."""

import torch

from pluriform.robust.stored_values import Storage, StoredTensor
from pluriform.robust.stored_weights import best_fit, find_sets

OWN = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}


def stored(*shape):
    numel = int(torch.tensor(shape).prod())
    stride = tuple(int(torch.tensor(shape[axis + 1 :]).prod()) for axis in range(len(shape)))
    return StoredTensor(Storage("0", torch.float32, numel), 0, shape, stride, torch.float32)


def weights(prefix=""):
    return {f"{prefix}fc.weight": stored(2, 3), f"{prefix}fc.bias": stored(2)}


def test_the_state_of_optimisers_is_no_set_of_weights():
    content = {"optimizer": weights(), "lr_scheduler": weights(), "model_optimal": weights(), "opt": weights()}
    assert [found.entry for found in find_sets(content)] == ["model_optimal"]


def test_a_dictionary_that_holds_itself_ends():
    content = {"model": weights()}
    content["again"] = content
    assert [found.entry for found in find_sets(content)] == ["model"]


def test_the_longest_match_wins_over_the_first():
    content = {"part": {"fc.weight": stored(2, 3)}, "whole": weights("a.b.")}
    fit = best_fit(find_sets(content), OWN)
    assert fit is not None
    assert (fit.found.entry, fit.prefix, fit.missing, fit.unexpected) == ("whole", "a.b.", (), ())


def test_the_attackers_copy_serves_where_it_is_the_only_one():
    fit = best_fit(find_sets(weights("module.attacker.model.")), OWN)
    assert fit is not None
    assert (fit.prefix, len(fit.taken), fit.dropped) == ("module.attacker.model.", 2, ())


def test_large_counts_of_sets_and_dots_are_cut_off():
    assert len(find_sets({str(n): {"x": stored(1)} for n in range(2000)})) == 256
    deep = {"a." * 200 + "fc.weight": stored(2, 3)} | weights()
    fit = best_fit(find_sets(deep), OWN)
    assert fit is not None
    assert len(fit.unexpected) == 1

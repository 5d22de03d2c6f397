import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError, EmptySplitError
from pluriform.robust.source import Rung, choose_source

PROBE = pf.Transfer("linear-probe", training=pf.Training(epochs=3, batch_size=40))


@pytest.fixture(scope="module")
def data() -> Data:
    digits = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(digits, name).batch(torch.arange(120))) for name in ("train", "validation", "test")}
    return dataclasses.replace(digits, **cut)


@pytest.fixture(scope="module")
def ladder(data) -> dict[float, nn.Module]:
    """A network of use, and two whose features are nearly all lost."""
    good = pf.nets.build("mlp", data, seed=0)
    poor, worse = (pf.nets.build("mlp", data, seed=seed) for seed in (1, 2))
    with torch.no_grad():
        poor.layers[3].weight[2:] = 0
        worse.layers[3].weight[:] = 0
        worse.layers[3].bias[:] = 0
    return {3.0: worse, 0.5: good, 0.0: poor}


def test_the_source_of_best_validation_accuracy_wins(data, ladder):
    choice = choose_source(ladder, data, PROBE, seed=1)
    assert [rung.eps for rung in choice.ladder] == [0.0, 0.5, 3.0]
    accuracies = [rung.validation_accuracy for rung in choice.ladder]
    for eps, accuracy in zip((0.0, 0.5, 3.0), accuracies, strict=True):
        form = PROBE.fit(ladder[eps], data, seed=1)
        hits = form.predict(data.validation.inputs).mean.argmax(1) == data.validation.targets
        assert accuracy == pytest.approx(float(hits.float().mean()))
    assert choice.eps == 0.5
    assert accuracies[1] == max(accuracies)
    assert torch.equal(choice.form(data.test.inputs), PROBE.fit(ladder[0.5], data, seed=1)(data.test.inputs))
    assert "eps 0.5: " in str(choice)
    assert str(choice).count("(chosen)") == 1


def test_the_test_split_decides_nothing(data, ladder):
    wrong = dataclasses.replace(data, test=Split(data.test.inputs * 0, (data.test.targets + 1) % 10))
    one, other = (choose_source(ladder, own, PROBE) for own in (data, wrong))
    assert one.ladder == other.ladder


def test_among_equals_the_smallest_eps_wins(data, ladder):
    choice = choose_source({1.0: ladder[0.5], 0.25: ladder[0.5]}, data, PROBE)
    assert choice.ladder[0].validation_loss == choice.ladder[1].validation_loss
    assert choice.eps == 0.25
    assert isinstance(choice.ladder[0], Rung)


def test_nothing_to_choose_from_is_said(data, ladder):
    with pytest.raises(ConfigError, match="at least one source; got none"):
        choose_source({}, data)
    bare = dataclasses.replace(data, validation=Split(data.validation.inputs[:0], data.validation.targets[:0]))
    with pytest.raises(EmptySplitError, match="validation samples; got 0"):
        choose_source(ladder, bare)

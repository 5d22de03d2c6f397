import dataclasses

import pytest
import tyro

import pluriform as pf
from pluriform.cli.arguments import METHODS, method_class
from pluriform.cli.fit import options


def parsed(name: str, *words: str):
    return tyro.cli(options(name), args=["digits", *words]).method


@pytest.mark.parametrize("name", sorted(METHODS))
def test_flags_of_every_method_can_be_read(name):
    assert parsed(name) == method_class(name)()


def test_the_one_recipe_of_a_method_needs_no_prefix():
    assert parsed("deep-ensemble", "--epochs", "3") == pf.DeepEnsemble(training=pf.DeepEnsemble().training.__class__(3))


def test_several_recipes_keep_their_names():
    found = parsed("distillation", "--widen", "1.5", "--training.epochs", "2", "--wide-training.epochs", "3")
    expected = pf.Distillation(1.5)
    assert found == dataclasses.replace(
        expected,
        training=dataclasses.replace(expected.training, epochs=2),
        wide_training=dataclasses.replace(expected.wide_training, epochs=3),
    )

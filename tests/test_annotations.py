"""The test run checks the annotations of the whole package, and shapes of arguments against each other."""

import importlib
import inspect
import pkgutil
import typing

import pytest
import torch
from jaxtyping import AbstractArray

import pluriform as pf
from pluriform.graph.channels import channel_groups
from pluriform.metrics.classification import nll
from pluriform.training.recipe import Recipe


def modules():
    for found in pkgutil.walk_packages(pf.__path__, "pluriform."):
        yield importlib.import_module(found.name)


def functions(module):
    """Those written in the module, methods of its classes included."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    methods = [value for kind in own if inspect.isclass(kind) for value in vars(kind).values()]
    return list(filter(inspect.isfunction, map(inspect.unwrap, filter(inspect.isfunction, (*own, *methods)))))


def has_shape(annotation) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(has_shape, typing.get_args(annotation)))


def test_every_module_whose_functions_state_shapes_has_them_compared():
    stated = {
        module.__name__: module
        for module in modules()
        if any(has_shape(hint) for function in functions(module) for hint in function.__annotations__.values())
    }
    assert len(stated) > 80
    assert not [name for name, module in stated.items() if not hasattr(module, "jaxtyping")]  # Its hook imports it.


def test_shapes_are_compared_with_each_other():
    nll(torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long))
    with pytest.raises(Exception, match="Type-check error whilst checking the parameters of .*nll"):
        nll(torch.full((3, 2), 0.5), torch.zeros(4, dtype=torch.long))


def test_functions_without_shapes_are_checked():
    with pytest.raises(Exception, match=r"channel_groups\(\) parameter graph=3 violates type hint"):
        channel_groups(3)


def test_fields_of_settings_are_checked():
    with pytest.raises(Exception, match="epochs.*violates type hint|parameter 'epochs'"):
        Recipe(epochs="many")

"""Which nodes write into their inputs."""

import operator

import pytest
import torch
from torch import fx, nn

from pluriform.graph.inplace import writes_in_place

CALLS = [
    ("call_function", torch.add, {}, False),
    ("call_function", torch.add, {"out": None}, False),
    ("call_function", torch.add, {"out": 1}, True),
    ("call_function", torch.relu_, {}, True),
    ("call_function", nn.functional.relu, {"inplace": False}, False),
    ("call_function", nn.functional.relu, {"inplace": True}, True),
    ("call_function", operator.iadd, {}, True),
    ("call_function", operator.setitem, {}, True),
    ("call_function", operator.and_, {}, False),
    ("call_method", "add", {}, False),
    ("call_method", "add_", {}, True),
    ("call_method", "__len__", {}, False),
    ("call_module", "copied", {}, False),
    ("call_module", "written", {}, True),
]


@pytest.mark.parametrize(("op", "target", "options", "writes"), CALLS)
def test_what_counts_as_a_write(op, target, options, writes):
    module = nn.Module()
    module.copied, module.written = nn.ReLU(), nn.ReLU(inplace=True)
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.create_node(op, target, (x, x), options)
    assert writes_in_place(node, module) is writes

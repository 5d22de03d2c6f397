"""Where the code of a network takes lengths from, found by tracing."""

import torch
from torch import nn

from pluriform.graph.lengths import AttributeLength, SharedLength, attribute_lengths, shared_lengths
from pluriform.graph.trace import trace

torch.set_num_threads(1)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.size, self._hidden, self.eager = 2, 6, 3, True
        self.layer = nn.Linear(4, 12)

    def forward(self, x):
        a, b = self.layer(x).split(self.size, dim=-1)
        a = a.view(x.size(0), x.size(1), self.heads, self._hidden)
        b = torch.reshape(b, (*x.shape[:2], 2, self.size // 2)).unflatten(-1, (self._hidden, -1))
        return a.flatten(2) + b.flatten(2).reshape(*x.shape[:-1], self.size)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.width = Inner(), 6

    def forward(self, x):
        y = self.inner(x)
        return y.reshape(len(x), -1, self.width, 1).flatten(1)


def test_attributes_are_found_with_their_modules_and_axes():
    net = Outer()
    graph = trace(net, torch.zeros(2, 5, 4))
    found = attribute_lengths(graph)
    by_attribute = {(each.module, each.attribute, each.part, each.axis) for each in found}
    assert by_attribute == {
        ("inner", "heads", None, 2),
        ("inner", "size", 0, 2),
        ("inner", "size", None, 2),
        ("", "width", None, 2),
    }
    for each in found:
        shape = graph[each.node].shape if each.part is None else graph[each.node].shape[each.part]
        owner = net.get_submodule(each.module)
        assert shape[each.axis] == getattr(owner, each.attribute)
    assert all(type(value) is int for value in (net.inner.heads, net.inner.size, net.width))


def test_lengths_of_other_tensors_are_found():
    graph = trace(Outer(), torch.zeros(2, 5, 4))
    found = shared_lengths(graph)
    view = next(node.name for node in graph.nodes if node.shape == (2, 5, 2, 3))
    assert SharedLength(view, 0, "x", 0) in found
    assert SharedLength(view, 1, "x", 1) in found
    assert all(graph[each.node].shape[each.axis] == graph[each.source].shape[each.source_axis] for each in found)


def test_networks_of_torch_modules_have_no_attributes_to_follow():
    graph = trace(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Flatten()), torch.zeros(1, 4))
    assert attribute_lengths(graph) == ()
    assert shared_lengths(graph) == ()


def test_code_that_asks_for_the_type_of_a_number_is_left_alone():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.heads = nn.Linear(4, 6), 2

        def forward(self, x):
            y = self.layer(x)
            return y.view(len(x), self.heads, 3) if type(self.heads) is int else y.relu()

    assert attribute_lengths(trace(Strict(), torch.zeros(1, 4))) == ()


def test_the_answer_of_one_graph_is_kept():
    graph = trace(Outer(), torch.zeros(2, 5, 4))
    assert attribute_lengths(graph) is attribute_lengths(graph)
    assert isinstance(attribute_lengths(graph)[0], AttributeLength)

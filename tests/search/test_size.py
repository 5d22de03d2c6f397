"""Sizes against counters of torch: parameters, its flop counter, and hooks on what autograd saves."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pluriform.data.signature import Signature
from pluriform.graph.trace import trace
from pluriform.nets.zoo import build
from pluriform.search.moves import apply, legal_moves, predict
from pluriform.search.outline import Outline
from pluriform.search.size import size_of
from pluriform.search.start import morphable

NETS = ("mlp", "lenet", "convnet", "convnet-bn", "myrtle5-bn", "resnet8", "wrn-10-1")


def zoo(name):
    return build(name, Signature("random", "classification", (1, 8, 8), 3)), torch.randn(4, 1, 8, 8)


def saved_bytes(net, inputs):
    """What autograd saves, measured: each storage once, parameters apart."""
    kept = {}
    mine = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers())}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net.train()(inputs).sum()
    del loss
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("name", NETS)
def test_parameters_and_products_are_those_that_torch_counts(name):
    net, inputs = zoo(name)
    size = size_of(trace(net, inputs))
    with FlopCounterMode(display=False) as counter:
        net.eval()(inputs)
    assert size.parameters == sum(p.numel() for p in net.parameters())
    assert size.parameter_bytes == 4 * size.parameters
    assert size.macs * len(inputs) * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", NETS)
def test_memory_kept_for_the_backward_pass(name):
    net, inputs = zoo(name)
    predicted = size_of(trace(net, inputs)).saved_bytes * len(inputs)
    assert predicted == pytest.approx(saved_bytes(net, inputs), rel=0.1)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)),
        nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.SiLU(), nn.BatchNorm1d(8), nn.Linear(8, 2)),
    ],
)
def test_memory_of_other_functions(module):
    inputs = torch.randn(64, 6)
    assert size_of(trace(module, inputs)).saved_bytes * 64 == pytest.approx(saved_bytes(module, inputs), rel=0.15)


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4)
    assert size_of(trace(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 4))).parameters == 20


def test_the_size_of_a_child_is_known_before_it_is_made():
    net, inputs = zoo("convnet-bn")
    graph = morphable(net, inputs)
    outline, before = Outline.of(graph), size_of(graph)
    first = {}
    for morph in legal_moves(outline):
        first.setdefault(morph.operation, morph)
    for morph in first.values():
        predicted, made = size_of(predict(outline, morph)), apply(graph, morph)
        assert predicted == size_of(made)
        assert predicted.parameters == sum(p.numel() for p in made.module.parameters()) > before.parameters
        assert predicted.macs > before.macs


def test_attention_and_transposed_convolutions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.up = nn.Linear(8, 24), nn.ConvTranspose1d(5, 4, 2, stride=2)

        def forward(self, x):
            q, k, v = (y.unflatten(-1, (2, 4)).transpose(1, 2) for y in self.project(x).chunk(3, -1))
            y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.up(y.transpose(1, 2).flatten(2))

    net, inputs = Net(), torch.randn(3, 5, 8)
    with FlopCounterMode(display=False) as counter:
        net(inputs)
    assert size_of(trace(net, inputs)).macs * 3 * 2 == counter.get_total_flops()

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import GraphError
from pluriform.graph.features import features
from pluriform.graph.levels import level_nodes


def test_last_map_at_each_resolution_of_a_residual_network():
    net = pf.nets.build("resnet8", pf.load(torch.rand(8, 3, 32, 32), torch.arange(8) % 2, validation=0))
    images = torch.rand(2, 3, 32, 32)
    found = level_nodes(pf.trace(net.eval(), images))
    assert sorted(found) == [1, 2, 4]
    maps = features(net, images, list(found.values()))
    assert [tuple(maps[found[stride]].shape[1:]) for stride in (1, 2, 4)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_networks_without_maps_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(GraphError, match="feature maps that everything passes"):
        level_nodes(pf.trace(net, torch.zeros(2, 1, 3, 3)))

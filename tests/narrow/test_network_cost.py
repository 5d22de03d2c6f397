"""Costs of networks side by side, by hand."""

import json

import torch
from torch import nn

import pluriform as pf
from pluriform.narrow.network_cost import network_costs

CPU = torch.device("cpu")


def network(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(), nn.Flatten(), nn.Linear(64 * width, 10)
    )


def test_figures_by_hand_and_networks_as_they_were():
    data, nets = pf.load("digits"), {"thin": network(2).train(), "wide": network(6).train()}
    before = {name: [value.clone() for value in net.state_dict().values()] for name, net in nets.items()}
    found = network_costs(nets, data, CPU)
    for width, name in ((2, "thin"), (6, "wide")):
        cost = found[name]
        assert cost.parameters == 9 * width + width + 2 * width + 640 * width + 10
        assert cost.macs == 64 * 9 * width + 640 * width
        held = 4 * (cost.parameters + 2 * width + 128 * 64) + 8  # Weights, buffers and inputs; a count of batches.
        maps = 4 * 128 * 64 * width
        assert held + maps <= cost.memory * 2**20 <= held + 3 * maps
        assert set(cost.latency) == {1, 128}
        assert all(part.training for part in nets[name].modules())
        same = zip(before[name], nets[name].state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in same)
    told = found["wide"].to_json()
    assert json.loads(json.dumps(told)) == told

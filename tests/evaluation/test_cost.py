"""Costs against hand counts."""

import torch
from torch import nn

import pluriform as pf
from pluriform.evaluation.cost import count_macs, count_parameters, measure_cost
from pluriform.evaluation.evaluate import _Plain
from pluriform.evaluation.subject import Subject


def test_parameters_and_macs_of_the_fixture_by_hand(form, data):
    found = {(entry.name, *entry.condition.values()): entry for entry in measure_cost(Subject(form, data)).measures}
    assert found["parameters",].value == 36 * 24 + 24 + 24 * 3 + 3
    assert found["macs",].value == 36 * 24 + 24 * 3
    assert found["parameters",].unit == "parameters"
    assert found["macs",].unit == "MAC"


def test_macs_of_convolutions_by_hand(data):
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(128, 3))
    expected = 36 * 8 * 9 + 16 * 8 * 2 * 9 + 128 * 3
    assert count_macs(_Plain(module, data.signature), data.test.inputs[:1]) == expected


def test_macs_of_stacked_members_by_hand(data):
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3, 36))

        def forward(self, x):
            return torch.vmap(lambda w: nn.functional.linear(x.flatten(1), w))(self.weight).mean(0)

    form = _Plain(Stacked(), data.signature)
    assert count_macs(form, data.test.inputs[:1]) == 5 * 3 * 36
    assert count_parameters(form) == 5 * 3 * 36


def test_latency_and_memory(form, data):
    found = {(entry.name, *entry.condition.values()): entry for entry in measure_cost(Subject(form, data)).measures}
    for batch in (1, 128):
        entry = found["latency", batch]
        assert 0 < entry.low <= entry.value <= entry.high
        assert entry.unit == "ms"
        assert entry.count >= 5
    assert found["peak_memory", 128].unit == "MiB"


def test_a_form_may_state_its_costs_and_one_without_a_network_states_none(form, data):
    class Kernel(_Plain):
        cost = {"training_seconds": 12.5}  # noqa: RUF012

        def forward(self, x):
            return x.flatten(1) @ torch.ones(self.module.in_features, self.module.out_features)

    names = {e.name: e.value for e in measure_cost(Subject(Kernel(nn.Linear(36, 3), data.signature), data)).measures}
    assert names["training_seconds"] == 12.5
    assert not {"parameters", "macs"} & names.keys()


def test_costs_of_drawn_networks_do_not_depend_on_what_was_called_before():
    """Chains are computed by fused kernels, and drawn weights are kept: neither is seen by those who watch."""
    digits = pf.load("digits")
    form = pf.SWAG(members=4, rank=2, training=pf.Training(epochs=2)).fit(pf.nets.build("mlp", digits), digits)
    macs = 4 * (64 * 256 + 256 * 256 + 256 * 10)
    for _ in range(2):
        found = {entry.name: entry.value for entry in measure_cost(Subject(form, digits)).measures}
        assert found["macs"] == macs == count_macs(form, digits.test.inputs[:1])
        assert found["parameters"] == sum(weight.numel() for weight in form.parameters())
        form.predict(digits.test.inputs)

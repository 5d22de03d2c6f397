"""Only the displacements that something later asks for are computed."""

import itertools

import numpy as np
import torch
from torch import nn

from pluriform.infinite.engine.demand import demand_of_input, demands, entries
from pluriform.infinite.engine.program import program_of
from pluriform.infinite.engine.reading import Reading, read
from pluriform.infinite.kernel_function import kernel_of


def reading_of(net: nn.Module, *shape: int) -> Reading:
    function = kernel_of(net, torch.zeros(2, *shape))
    return read(
        function.plan, {name: value.shape[1:] for name, value in function.plan.features(torch.zeros(1, *shape)).items()}
    )


def conv(stride: int = 1) -> nn.Module:
    return nn.Conv2d(1, 1, 3, stride=stride, padding=1)


def test_flatten_after_three_poolings_asks_for_a_sixth_of_the_entries():
    net = nn.Sequential(
        *(layer for _ in range(3) for layer in (conv(), nn.ReLU(), nn.AvgPool2d(2))), nn.Flatten(), nn.Linear(16, 1)
    )
    asked = demands(reading_of(net, 1, 32, 32))
    full = next(demand for demand in asked.values() if demand.shape == (63, 63))
    rows, columns = np.nonzero(full)
    assert full.sum() == 15 * 15
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 38, 24, 38)
    assert 0.16 < entries(full) / 32**4 < 0.18


def test_entries_are_counted_pair_by_pair():
    demand = np.random.default_rng(0).random((9, 5)) < 0.4
    positions = list(itertools.product(range(5), range(3)))
    expected = sum(demand[d - b + 4, e - c + 2] for (b, c), (d, e) in itertools.product(positions, positions))
    assert entries(demand) == expected


def test_strides_thin_out_displacements():
    net = nn.Sequential(
        conv(),
        nn.ReLU(),
        conv(2),
        nn.ReLU(),
        conv(2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1, 1),
    )
    program = program_of(reading_of(net, 1, 32, 32))
    assert len(program.displacements) == 15 * 15
    assert (program.displacements % 4 == 0).all()
    assert tuple(program.displacements[0]) == (0, 0)


def test_a_flattened_network_needs_no_displacement_but_zero():
    net = nn.Sequential(conv(), nn.ReLU(), conv(2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1))
    assert len(program_of(reading_of(net, 1, 16, 16)).displacements) == 1


def test_demand_of_a_pooling_against_all_pairs_of_positions():
    reading = reading_of(
        nn.Sequential(conv(), nn.AvgPool2d(3, 2, 1), conv(), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)), 1, 7, 6
    )
    step = next(step for step in reading.instructions if step.matrices)
    rows, columns = (matrix.numpy() != 0 for matrix in step.matrices)
    own = np.random.default_rng(1).random((2 * len(rows) - 1, 2 * len(columns) - 1)) < 0.3
    expected = np.zeros((13, 11), dtype=bool)
    cells = list(itertools.product(range(len(rows)), range(len(columns))))
    for (a, b), (c, d) in itertools.product(cells, cells):
        if own[c - a + len(rows) - 1, d - b + len(columns) - 1]:
            for p, q in itertools.product(np.flatnonzero(rows[a]), np.flatnonzero(rows[c])):
                for r, s in itertools.product(np.flatnonzero(columns[b]), np.flatnonzero(columns[d])):
                    expected[q - p + 6, s - r + 5] = True
    assert (demand_of_input(step, own, (7, 6)) == expected).all()

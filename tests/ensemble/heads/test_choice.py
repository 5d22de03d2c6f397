from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from pluriform.encoding import decode, encode
from pluriform.ensemble.heads.choice import HeadChoice, choose_head, make_head
from pluriform.ensemble.heads.full import FullHead
from pluriform.ensemble.heads.low_rank import LowRankHead
from pluriform.ensemble.target import layers_of
from pluriform.errors import ConfigError, MemoryBudgetError
from pluriform.nets.lenet import LeNet


def wide(width, depth=2):
    """A target on the meta device: nothing is allocated."""
    with torch.device("meta"):
        return layers_of(nn.Sequential(*(nn.Linear(width, width) for _ in range(depth))))


def test_auto_steps_down_with_the_size_of_the_target():
    assert choose_head(layers_of(LeNet((1, 28, 28), 10)), 64, 512).mode == "full"
    assert choose_head(wide(512), 64, 512).mode == "low-rank"
    assert choose_head(wide(1400, 6), 64, 512).mode == "rank-one"
    with torch.device("meta"):
        deep = layers_of(nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(2)), nn.Linear(4096, 10)))
    choice = choose_head(deep, 64, 512)
    assert choice.mode == "last-layer"
    assert "the richest that fits in 2,048 MiB" in choice.reason


def test_estimate_counts_all_that_training_holds():
    layers = layers_of(nn.Linear(30, 20))
    choice = choose_head(layers, 16, 32, members=5)
    parameters = sum(parameter.numel() for parameter in FullHead(layers, 16, 32, {"weight": 1, "bias": 1}).parameters())
    assert choice.parameters["full"] == parameters
    assert choice.bytes["full"] == 16 * (parameters + 620) + 8 * 5 * 620
    assert choice.reason.startswith("full, a target of at most 125,000 weights: ")
    assert decode(encode(choice)) == choice
    assert HeadChoice(**choice.to_json()) == choice


def test_budget_is_kept_and_the_modes_that_fit_are_named():
    layers = wide(2048)
    needed = choose_head(layers, 64, 512, "last-layer").bytes
    between = (needed["rank-one"] + needed["low-rank"]) // 2
    with pytest.raises(
        MemoryBudgetError, match=r"for the head 'low-rank' \(generator of 8,392,704 weights\)"
    ) as raised:
        choose_head(layers, 64, 512, "low-rank", between)
    fitting = [repr(mode) for mode in ("chunked", "rank-one", "last-layer") if needed[mode] <= between]
    assert str(raised.value).endswith(f"To fix: use head={' or '.join(fitting)}.")
    assert f"at most {between / 2**20:,.0f} MiB" in str(raised.value)
    assert f"got {needed['low-rank'] / 2**20:,.0f} MiB" in str(raised.value)
    assert choose_head(layers, 64, 512, "auto", between).mode == "rank-one"
    with pytest.raises(
        MemoryBudgetError, match="'last-layer', the smallest .*raise the budget, or make the generators"
    ):
        choose_head(layers, 64, 512, "auto", 1000)
    assert choose_head(layers_of(nn.Linear(9, 9)), 8, 16, "chunked", 2**20).mode == "chunked"


def test_estimate_allocates_nothing():
    with torch.device("meta"):
        huge = layers_of(nn.Linear(200_000, 100_000))
    with pytest.raises(MemoryBudgetError, match="generator of 20,000,100,000 weights"):
        choose_head(huge, 64, 512, "full")


def test_asked_head_is_checked_against_the_memory_of_the_machine(monkeypatch):
    layers = wide(2048)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * 2**30))
    with pytest.raises(
        MemoryBudgetError, match=r"expected at most 3,686 MiB.*'full'.*use head='chunked' or 'low-rank'"
    ):
        choose_head(layers, 64, 512, "full")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2**50))
    assert choose_head(layers, 64, 512, "full").mode == "full"


def test_last_layer_generates_the_last_alone():
    layers = layers_of(nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 10), nn.LayerNorm(10)))
    choice = choose_head(layers, 8, 16, "last-layer")
    head = make_head("last-layer", layers[1:2], 8, 16, {"1.weight": 0.1, "1.bias": 0.1})
    assert choice.parameters["last-layer"] == sum(parameter.numel() for parameter in head.parameters())
    assert isinstance(head, FullHead)
    assert choose_head(layers, 8, 16, last=layers[:1]).parameters["last-layer"] > choice.parameters["last-layer"]


def test_a_large_last_layer_gets_a_low_rank_head():
    layers = layers_of(nn.Linear(400, 400))
    head = make_head("last-layer", layers, 8, 16, {"weight": 0.1, "bias": 0.1})
    assert isinstance(head, LowRankHead)
    counted = choose_head(layers, 8, 16, "last-layer").parameters["last-layer"]
    assert counted == sum(parameter.numel() for parameter in head.parameters()) < 160_400


def test_refusals():
    layers = layers_of(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="'full', 'chunked', 'low-rank', 'rank-one', 'last-layer'; got 'dense'"):
        choose_head(layers, 8, 16, "dense")
    with pytest.raises(ConfigError, match="a width of 2 or more; got code size 8, hidden width 1"):
        choose_head(layers, 8, 1)

"""The threads of PyTorch, and a pool of our own where they cannot be had."""

import ctypes
import threading

import pytest
import torch
from torch import nn

from pluriform.fused import threads
from pluriform.fused.program import compile_program
from pluriform.fused.run import fused_gradients
from pluriform.graph.parameters import stack

NAMES = []
KIND = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@KIND
def note(data):
    NAMES.append((data, threading.get_ident()))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_every_thread_is_called_once(count, own, monkeypatch):
    if own:
        monkeypatch.setattr(threads, "_team", lambda: None)
    NAMES.clear()
    threads.on_threads(ctypes.cast(note, ctypes.c_void_p).value, 77, count)
    assert [data for data, _ in NAMES] == [77] * count
    if not own:
        assert len({name for _, name in NAMES}) == count


def test_both_kinds_of_threads_give_the_same(monkeypatch):
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)) for _ in range(7)]
    weights, x, y = stack(members).parameters, torch.randn(50, 3, 4), torch.randint(0, 3, (50,))
    program = compile_program(members[0], x[:1].unsqueeze(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        one = fused_gradients(program, weights, x, y, classification=True)
        monkeypatch.setattr(threads, "_team", lambda: None)
        two = fused_gradients(program, weights, x, y, classification=True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in weights)

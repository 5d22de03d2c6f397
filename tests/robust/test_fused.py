"""Adversarial training with its attacks in fused kernels: near the plain way, and resumed to the same bits."""

import pytest
import torch

import pluriform as pf
from pluriform.fused import network as network_file
from pluriform.fused.network import FusedNetwork
from pluriform.graph.parameters import weights_of

THREAT = pf.Threat("linf", 0.1)


@pytest.mark.parametrize("scheme", ["pgd", "fgsm-rs", "n-fgsm", "trades", "mart"])
def test_attacks_in_fused_kernels_train_as_plain_ones_do(scheme, monkeypatch):
    data = pf.load("digits")
    method = pf.AdversarialTraining(scheme, THREAT, pf.Training(epochs=1), steps=3)
    plain = method.fit(pf.nets.build("mlp", data), data)
    used, forward = [], FusedNetwork.forward
    monkeypatch.setattr(network_file, "LEAST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(FusedNetwork, "forward", lambda self, at: used.append(len(at)) or forward(self, at))
    fused = method.fit(pf.nets.build("mlp", data), data)
    assert used
    for name, weight in weights_of(plain.module).items():
        # Signs of gradients near zero differ; what a step learns from them hardly does.
        assert torch.allclose(weight, weights_of(fused.module)[name], atol=5e-3)
    again = method.fit(pf.nets.build("mlp", data), data)
    assert all(torch.equal(a, b) for a, b in zip(fused.state_dict().values(), again.state_dict().values(), strict=True))


def test_kinds_that_differentiate_the_weights_in_the_attack_stay_plain(monkeypatch):
    monkeypatch.setattr(network_file, "LEAST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(FusedNetwork, "forward", lambda *_: pytest.fail("fused"))
    data = pf.load("digits")
    for scheme in ("free", "grad-align"):
        pf.AdversarialTraining(scheme, THREAT, pf.Training(epochs=1), replays=2).fit(pf.nets.build("mlp", data), data)

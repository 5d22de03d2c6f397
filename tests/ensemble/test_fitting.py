"""The noise that ensembles of regression networks share."""

import torch
from torch import nn

import pluriform as pf
from pluriform.ensemble.deep_ensemble import Ensemble
from pluriform.ensemble.fitting import fitted_noise


class Shifted(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return x[:, :1] + self.shift


def test_noise_is_what_the_spread_of_the_members_leaves():
    """Members at +-1 have variance 1; where squared errors are 5 in the mean, noise 4 has the largest likelihood."""
    data = pf.load("uci-regression:yacht")
    inputs = data.validation.inputs
    sign = torch.ones(len(inputs), 1)
    sign[::2] = -1
    split = type(data.validation)(inputs, inputs[:, :1] + 5**0.5 * sign)
    data = type(data)(**{**vars(data), "validation": split})
    form = Ensemble([Shifted(1.0), Shifted(-1.0)], data.signature)
    assert torch.allclose(fitted_noise(form, data), torch.tensor([4.0]), rtol=1e-3)


def test_there_is_none_in_classification():
    data = pf.load("digits")
    form = Ensemble([pf.nets.build("mlp", data)], data.signature)
    assert fitted_noise(form, data) is None

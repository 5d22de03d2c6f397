from dataclasses import replace

import torch

import pluriform as pf
from pluriform.translate.album import some_styles


def test_styles_are_drawn_of_every_kind(unpaired):
    targets = torch.arange(30.0).view(30, 1, 1, 1).expand(30, 3, 4, 4) / 30
    styles = torch.tensor([0] * 24 + [1] * 4 + [2] * 2)
    data = replace(unpaired, train=pf.Split(unpaired.train.inputs, targets, styles), styles=("a", "b", "c"))
    found = some_styles(data, 6, seed=0)
    kinds = styles[(found[:, 0, 0, 0] * 30).round().long()]
    assert kinds.bincount().tolist() == [2, 2, 2]
    assert torch.equal(found, some_styles(data, 6, seed=0))
    assert not torch.equal(found, some_styles(data, 6, seed=1))
    assert len(some_styles(unpaired, 100, 0)) == len(unpaired.train.targets)

import pytest
import torch

import pluriform as pf


@pytest.fixture(scope="session")
def pairs():
    """Coloured squares and the same with colours inverted, 16 pixels."""
    return squares()


@pytest.fixture(scope="session")
def unpaired():
    images = squares().train
    return pf.load(images.inputs, images.targets[:9], task="translation", validation=2)


@pytest.fixture(scope="session")
def labelled():
    """Label maps of three classes, each with its colour."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, (20, 1, 4, 4), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    colours = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.8, 0.1], [0.2, 0.9, 0.3]])
    photographs = colours[ids[:, 0]].permute(0, 3, 1, 2)
    return pf.load(ids, photographs, task="translation", classes=("sky", "sun", "tree"), validation=2)


def squares(count=24):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return pf.load(images, 1 - images, task="translation", validation=2)

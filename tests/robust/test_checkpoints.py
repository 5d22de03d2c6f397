"""Files in every published layout give the network that was published, and say what they held."""

import hashlib
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, CorruptFileError, DataNotFoundError, PluriformError, ShapeError
from pluriform.robust.checkpoints import load_robust_imagenet
from pluriform.robust.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise

sys.path.insert(0, str(Path(__file__).parent))
from published import SmallResNet, as_bytes, drawn, renamed, robustness_state, warm_up, watched


@pytest.fixture(scope="module", autouse=True)
def warmed(tmp_path_factory):
    warm_up(load_robust_imagenet, tmp_path_factory.mktemp("warm") / "net.ckpt")


IMAGES = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))
NORMALISED = (IMAGES - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@pytest.fixture(scope="module")
def truth():
    return drawn(SmallResNet())


@pytest.fixture
def state(truth):
    return OrderedDict((name, value.clone()) for name, value in truth.state_dict().items())


def written(path, content, container="zip"):
    path.write_bytes(as_bytes(content, container))
    return path


LAYOUTS = {
    "robustness": lambda s: ({"model": robustness_state(s), "epoch": 90, "optimizer": {"state": {0: s}}}, "model"),
    "robustness, older": lambda s: ({"state_dict": robustness_state(s), "epoch": 90}, "state_dict"),
    "robustness, torchvision": lambda s: ({"model": robustness_state(s, "model.model.")}, "model"),
    "RobustBench": lambda s: (renamed(s, "model."), ""),
    "RobustBench, sequence": lambda s: ({"state_dict": renamed(s, "1.")}, "state_dict"),
    "parallel": lambda s: ({"net": renamed(s, "module."), "acc": 51.2}, "net"),
    "compiled": lambda s: ({"model": renamed(s, "_orig_mod.module.")}, "model"),
    "timm": lambda s: ({"state_dict": s, "arch": "resnet18", "epoch": 3, "version": 2}, "state_dict"),
    "torchvision": lambda s: (s, ""),
    "JEM": lambda s: ({"model_state_dict": renamed(s, "f."), "epoch": 1}, "model_state_dict"),
    "Lightning": lambda s: (
        {"state_dict": renamed(s, "model."), "pytorch-lightning_version": "2"},
        "state_dict",
    ),
}


@pytest.mark.parametrize("container", ["zip", "stream"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_file_of_each_layout_gives_the_published_network(layout, container, truth, state, tmp_path):
    content, entry = LAYOUTS[layout](state)
    path = written(tmp_path / "net.ckpt", content, container)
    normalise = "file" if layout.startswith("robustness") else Normalise()
    for network in (SmallResNet, None):
        with watched():
            loaded = load_robust_imagenet(path, network, normalise=normalise)
        with torch.no_grad():
            torch.testing.assert_close(loaded.module(IMAGES), truth(NORMALISED), rtol=1e-5, atol=1e-5)
        assert not loaded.module.training
        assert (loaded.report.entry, loaded.report.container) == (entry, container)
    assert loaded.report.loaded == len(state)
    if layout in ("robustness", "timm", "Lightning"):
        assert loaded.report.layout == layout


def test_the_tar_files_of_the_first_years_load(truth, state, tmp_path):
    path = written(tmp_path / "net.pth", state, "tar")
    with watched():
        loaded = load_robust_imagenet(path, SmallResNet(), normalise=None)
    assert loaded.report.container == "tar"
    assert torch.equal(loaded.module(IMAGES), truth(IMAGES))

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError, CorruptFileError, DataNotFoundError, ShapeError
from pluriform.forms import load_form, save_form
from pluriform.translate.losses import perceptual
from pluriform.translate.perceptual import classifier_extractor, random_extractor, vgg19_extractor

CONVS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)  # In torchvision's vgg19().features.
POOLS = (4, 9, 18, 27, 36)


def vgg19_features():
    """The layers in torchvision's order, with small random weights."""
    torch.manual_seed(0)
    widths = [3, 64, 64, 128, 128, *(4 * [256]), *(4 * [512]), 512]
    layers, before = [], iter(range(len(widths) - 1))
    for place in range(30):
        if place in CONVS:
            at = next(before)
            layers.append(nn.Conv2d(widths[at], widths[at + 1], 3, padding=1))
        else:
            layers.append(nn.MaxPool2d(2) if place in POOLS else nn.ReLU())
    return nn.Sequential(*layers)


def test_vgg19_from_a_file_gives_the_five_layers(tmp_path):
    network = vgg19_features()
    stored = {f"features.{name}": value.detach() for name, value in network.state_dict().items()}
    save_file(stored, tmp_path / "vgg19.safetensors")
    torch.save({**stored, "classifier.0.bias": torch.zeros(3)}, tmp_path / "vgg19.pth")
    extractor = vgg19_extractor(tmp_path / "vgg19.safetensors")
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    x = (images + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    x = x / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = []
    for place, layer in enumerate(network):
        x = layer(x)
        if place in (1, 6, 11, 20, 29):
            expected.append(x.detach())
    torch.testing.assert_close(extractor(images), expected)
    assert extractor.weights == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    assert extractor.label.startswith("VGG-19 of vgg19.safetensors, weights ")
    assert vgg19_extractor(tmp_path / "vgg19.pth").fingerprint == extractor.fingerprint


def test_files_that_are_not_vgg19_are_named(tmp_path):
    with pytest.raises(DataNotFoundError, match="VGG-19 weights; got none"):
        vgg19_extractor(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CorruptFileError, match="state_dict of tensors"):
        vgg19_extractor(tmp_path / "text.pth")
    save_file({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ShapeError, match=r"features.0.weight of \(64, 3, 3, 3\)"):
        vgg19_extractor(tmp_path / "other.safetensors")


def test_random_features_against_the_definition_and_by_seed():
    extractor = random_extractor(2, seed=3, layers=2, width=4)
    first, second = (part for part in extractor.modules() if isinstance(part, nn.Conv2d))
    x = torch.randn(2, 2, 8, 8)
    one = F.leaky_relu(F.conv2d(x, first.weight, padding=1), 0.2)
    two = F.leaky_relu(F.conv2d(F.avg_pool2d(one, 2), second.weight, padding=1), 0.2)
    torch.testing.assert_close(extractor(x), [one, two])
    assert extractor.fingerprint == random_extractor(2, seed=3, layers=2, width=4).fingerprint
    assert extractor.fingerprint != random_extractor(2, seed=4, layers=2, width=4).fingerprint


def test_random_features_keep_their_size_with_depth():
    deep = random_extractor(3, seed=0)(torch.randn(4, 3, 64, 64))
    assert [f.shape[1] for f in deep] == [32, 64, 128, 256, 256]
    rms = [float(f.square().mean().sqrt()) for f in deep]
    assert min(rms) > 0.05
    assert max(rms) < 2


def test_extractors_draw_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    random_extractor(3)
    assert torch.equal(torch.get_rng_state(), before)


def classifier():
    data = pf.load("digits", validation=0, seed=0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
    )
    net.append(nn.Linear(8 * 16, 10))
    return data, pf.Training(epochs=1).fit(net, data, seed=0)


def test_a_fitted_classifier_in_its_own_bounds_and_size():
    data, form = classifier()
    images = data.test.inputs[:3]
    extractor = classifier_extractor(form)
    x, expected = images, []
    for place, layer in enumerate(form.module):
        x = layer(x)
        if place in (1, 4):
            expected.append(x.detach())
    torch.testing.assert_close(extractor(2 * images - 1), expected)
    assert extractor.weights == (0.5, 1.0)
    named = classifier_extractor(form, ["4"])
    torch.testing.assert_close(named(2 * images - 1), expected[1:])
    assert named.fingerprint == extractor.fingerprint
    assert len(extractor(torch.zeros(1, 3, 20, 28))) == 2  # Other sizes, and colours.


def test_the_users_network_stays_as_it_is():
    _, form = classifier()
    form.module.train()
    extractor = classifier_extractor(form)
    assert form.module.training
    assert all(p.requires_grad for p in form.module.parameters())
    extractor.train()
    assert not any(part.training for part in extractor.modules())
    assert not any(p.requires_grad for p in extractor.parameters())


def test_gradients_reach_the_image():
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    extractor = random_extractor(3, layers=3)
    loss = perceptual(extractor.features, images, torch.rand(2, 3, 16, 16), extractor.weights)
    loss.backward()
    assert images.grad.abs().sum() > 0


def test_saved_and_read_again(tmp_path):
    extractor = random_extractor(3, layers=2)
    save_form(extractor, tmp_path / "form")
    again = load_form(tmp_path / "form")
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(again(x), extractor(x))
    assert again.label == extractor.label


def test_unknown_bounds_are_asked_for():
    with pytest.raises(ConfigError, match=r"pass input_shape=\(channels, height, width\) and bounds"):
        classifier_extractor(nn.Conv2d(3, 4, 3))

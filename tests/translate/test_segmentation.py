from dataclasses import replace

import pytest
import torch

import pluriform as pf
from pluriform.data.data import Split
from pluriform.errors import ConfigError
from pluriform.evaluation.images import measure_images
from pluriform.method import FitContext
from pluriform.training.recipe import Recipe
from pluriform.translate.scale import Scale
from pluriform.translate.segmentation import Segmentation, _PhotographFeed
from pluriform.translate.segmentation_net import SegmentationNet

SHORT = Recipe(epochs=12, batch_size=4, learning_rate=1e-2)


class Mirror:
    """Answers with the given images, one after another."""

    def __init__(self, images):
        self.images = iter(images)

    def translate(self, content, style=None, *, seed=0):
        return torch.stack([next(self.images) for _ in content])


def labelled(count=40, side=16):
    """Label maps of three classes that colour alone does not tell: stripes stand for one, plain grey for another."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, (count, 1, 2, 2), generator=generator).repeat_interleave(side // 2, 2)
    ids = ids.repeat_interleave(side // 2, 3)
    stripes = 0.5 + 0.3 * (torch.arange(side) % 2 * 2 - 1.0)
    looks = torch.stack([torch.full((side, side), 0.5), stripes.expand(side, side), stripes.expand(side, side).T])
    photographs = looks.gather(0, ids[:, 0].flatten(1).view(count, side, side)).unsqueeze(1).expand(-1, 3, -1, -1)
    return pf.load(ids, photographs.clone(), task="translation", classes=("a", "b", "c"), validation=4)


@pytest.fixture(scope="module")
def data():
    return labelled()


@pytest.fixture(scope="module")
def form(data):
    return Segmentation(width=8, training=SHORT).fit(None, data)


def test_texture_is_learned_and_the_ceiling_stands_beside(data, form):
    wrong = Mirror(data.test.targets.flip(-2))
    found = {
        (each.name, each.condition.get("images")): each.value
        for each in measure_images(wrong, data, segmentation=form).measures
    }
    assert found["pixel_accuracy", "real test images"] > 0.9  # The most frequent class has a third.
    truth = data.test.inputs
    shared = float((truth.flip(-2) == truth).double().mean())  # What turned images have in common with the maps.
    assert found["pixel_accuracy", None] == pytest.approx(shared, abs=0.1)
    assert found["pixel_accuracy", None] < found["pixel_accuracy", "real test images"] - 0.15


def test_form_is_stored(data, form, tmp_path):
    again = pf.load_form(form.save(tmp_path / "form"))
    images = data.test.targets
    assert torch.equal(again(images), form(images))
    assert again.label == form.label
    assert form.label.startswith("Segmentation(width=8")
    assert not form.training


def test_validation_chooses_the_weights(data, form):
    network, split = form.network, data.validation
    with torch.no_grad():
        logits = network(split.targets * 2 - 1)
    labels = split.inputs[:, 0].long()
    shares = torch.bincount(data.train.inputs.long().flatten()) / data.train.inputs.numel()
    weights = (shares**-0.5)[labels]
    loss = (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
    assert float(loss) == pytest.approx(min(form.history["validation_loss"]), rel=1e-4)
    accuracy = float((logits.argmax(1) == split.inputs[:, 0]).double().mean())
    assert accuracy in [pytest.approx(value, abs=1e-6) for value in form.history["validation_accuracy"]]


def test_interrupted_equals_uninterrupted(data, tmp_path, monkeypatch):
    method = Segmentation(width=2, halvings=2, training=Recipe(epochs=3, batch_size=8))
    whole = method.fit(None, data, seed=5)
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SECONDS", 0.0)
    calls = []

    def stop(network, batch):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: stop(module, inputs) if isinstance(module, SegmentationNet) and module.training else None
    )
    with pytest.raises(KeyboardInterrupt):
        method.fit(None, data, seed=5, run=tmp_path)
    handle.remove()
    resumed = method.fit(None, data, seed=5, run=tmp_path)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_photograph_and_map_are_mirrored_together(data):
    context = FitContext(0, None, torch.device("cpu"))
    own = replace(data, train=Split(data.train.inputs, data.train.inputs.expand(-1, 3, -1, -1) / 2))
    seen = set()
    for batch in _PhotographFeed(own, Segmentation(training=SHORT), Scale.of(own), context).batches(0):
        assert torch.equal((batch.inputs[:, 0] + 1).round().long(), batch.targets)
        plain = data.train.inputs[batch.index][:, 0].long()
        for found, given in zip(batch.targets, plain, strict=True):
            assert torch.equal(found, given) or torch.equal(found, given.flip(-1))
            if not torch.equal(given, given.flip(-1)):
                seen.add(torch.equal(found, given))
    assert seen == {True, False}


@pytest.mark.parametrize("sides", [(16, 16), (20, 33), (64, 48)])
def test_logits_have_the_size_of_the_image(sides):
    network = SegmentationNet(1, 5, width=2, halvings=3).eval()
    assert network(torch.rand(2, 1, *sides)).shape == (2, 5, *sides)


def test_equivariant_by_whole_steps_of_the_coarsest_level():
    torch.manual_seed(0)
    network = SegmentationNet(1, 2, width=4, halvings=2).eval()
    image = torch.zeros(1, 1, 64, 64)
    image[..., 28:36, 28:36] = torch.rand(8, 8)
    moved = network(image.roll(4, -1))
    inner = (..., slice(20, 44), slice(24, 44))
    torch.testing.assert_close(moved[inner], network(image).roll(4, -1)[inner], atol=1e-5, rtol=1e-4)


def test_parameters_are_counted():
    width, classes = 4, 3
    convs = 9 * (3 * 4 + 4 * 4) + 9 * (4 * 8 + 8 * 8) + 9 * (12 * 4 + 4 * 4)
    norms = 2 * 2 * (4 + 8 + 4)
    network = SegmentationNet(3, classes, width=width, halvings=1)
    assert sum(each.numel() for each in network.parameters()) == convs + norms + width * classes + classes


def test_small_classes_are_found_where_classes_are_balanced():
    """Pixels of a grey that noise hides: the better guess is always the ground, unless classes count alike."""
    generator = torch.Generator().manual_seed(1)
    ids = (torch.rand(24, 1, 16, 16, generator=generator) < 1 / 64).float()
    photographs = (ids * 0.1 + 0.4 + 0.06 * torch.randn(ids.shape, generator=generator)).clamp(0, 1)
    own = pf.load(ids, photographs, task="translation", classes=("ground", "dot"), validation=4)
    found = {}
    for balance in (0, 1):
        method = Segmentation(width=2, halvings=1, balance=balance, training=SHORT)
        predicted = method.fit(None, own)(own.test.targets).argmax(1)
        found[balance] = float((predicted[own.test.inputs[:, 0] == 1] == 1).double().mean())
    assert found[0] == 0
    assert found[1] > 0.2


def test_refusals(data):
    pairs = pf.load(data.train.targets, data.train.targets, task="translation")
    with pytest.raises(ConfigError, match="pairs of label maps and photographs; got pictures"):
        Segmentation().fit(None, pairs)
    with pytest.raises(ConfigError, match="got unpaired images"):
        Segmentation().fit(None, replace(data, paired=False))
    with pytest.raises(ConfigError, match="the network is its own"):
        Segmentation().fit(torch.nn.Conv2d(3, 3, 1), data)
    with pytest.raises(ConfigError, match=r"mirror in \[0, 1\]"):
        Segmentation(mirror=2)
    with pytest.raises(ConfigError, match="recipe for label maps"):
        Segmentation(training=Recipe(class_weights="balanced"))
    with pytest.raises(ConfigError, match="halvings of at least 1"):
        SegmentationNet(3, 2, halvings=0)

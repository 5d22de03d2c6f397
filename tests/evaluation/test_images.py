import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError, DivergenceError, EmptySplitError, ShapeError
from pluriform.evaluation.feature_reader import FeatureReader
from pluriform.evaluation.images import measure_images
from pluriform.metrics.feature_distance import frechet_distance
from pluriform.metrics.perceptual_distance import perceptual_terms
from pluriform.translate.perceptual import random_extractor


class Answer:
    """Gives images by looking contents up."""

    def __init__(self, data, change=lambda images: images, spread=0.0):
        self.known = {tuple(x.flatten().tolist()): y for x, y in zip(data.test.inputs, data.test.targets, strict=True)}
        self.change, self.spread = change, spread

    def translate(self, content, style=None, *, seed=0):
        found = self.change(torch.stack([self.known[tuple(image.flatten().tolist())] for image in content]))
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed))
        return (found + self.spread * noise).clamp(0, 1)

    def draw(self, content, count, *, seed=0):
        if not self.spread:
            raise ConfigError("one translation only")
        return [self.translate(content, seed=seed + number) for number in range(count)]


def pairs(paired=True):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (60, 1, 4, 4), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    colours = torch.tensor([[51, 51, 230], [230, 204, 26], [51, 230, 77]]) / 255
    photographs = colours[ids[:, 0]].permute(0, 3, 1, 2)
    noise = torch.randint(-10, 11, photographs.shape, generator=generator) / 255
    data = pf.load(ids, photographs + noise, task="translation", classes=("a", "b", "c"), validation=0)
    return replace(data, paired=paired)


class ByColour(nn.Module):
    """Labels every pixel by the nearest colour."""

    def forward(self, images):
        colours = torch.tensor([[51, 51, 230], [230, 204, 26], [51, 230, 77]]) / 255
        return -(images[:, None] - colours[None, :, :, None, None]).square().sum(2)


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip


def figures(findings):
    return {(found.name, *found.condition.get("images", "").split()[:1]): found for found in findings.measures}


def test_truth_itself_is_perfect():
    data = pairs()
    found = figures(measure_images(Answer(data), data, extractors=[classifier()], segmentation=ByColour()))
    assert found[("psnr",)].value == math.inf
    assert found[("psnr",)].low is None
    assert found[("ssim",)].value == pytest.approx(1)
    assert found[("perceptual_distance",)].value == pytest.approx(0, abs=1e-12)
    assert found[("frechet_distance",)].value == pytest.approx(0, abs=1e-6)
    assert found[("kernel_distance",)].value < found[("kernel_distance", "real")].value + 1e-3
    assert found[("miou",)].value == found[("miou", "real")].value == 1
    assert ("diversity",) not in found


def test_mean_image_is_the_baseline():
    data = pairs()
    findings = measure_images(Answer(data, lambda images: (images + 26 / 255).clamp(0, 1)), data)
    found = figures(findings)
    mean = (data.train.targets.mean(0) * 255).round() / 255
    error = ((mean - data.test.targets) ** 2).flatten(1).mean(1).double()
    wanted = float((-10 * error.log10()).mean())
    assert found[("psnr", "mean")].value == pytest.approx(wanted, abs=1e-5)
    assert found[("psnr",)].value == pytest.approx(-20 * math.log10(26 / 255), abs=0.4)  # Some pixels are clamped.
    assert found[("psnr",)].low <= found[("psnr",)].value <= found[("psnr",)].high
    assert found[("psnr",)].count == len(data.test) == 12
    assert [pictures.name for pictures in findings.pictures] == ["content", "translated", "truth"]


def test_distances_are_those_of_the_features():
    data, network = pairs(), classifier()
    findings = measure_images(Answer(data, lambda images: 1 - images), data, extractors=[network])
    found = figures(findings)
    reader = FeatureReader(network, data)
    with torch.no_grad():
        body = nn.Sequential(*list(network)[:-1]).eval()
        rounded = (data.test.targets * 255).round() / 255
        vectors = [body(images) for images in (1 - rounded, rounded)]
    torch.testing.assert_close(reader.read(rounded).vectors, vectors[1])
    assert found[("frechet_distance",)].value == pytest.approx(frechet_distance(*vectors), rel=1e-4)
    assert found[("frechet_distance",)].condition["unreliable"] == "12 images, 5 features"
    (facts,) = findings.protocol["images"]["extractors"]
    assert facts["features"] == 5
    assert facts["frechet_distance"].startswith("unreliable")
    assert len(facts["weights"]) == 16
    assert "subsets of 6 images" in facts["kernel_distance"]


def test_extractors_of_layers_read_all_of_them_in_their_own_bounds():
    data, extractor = pairs(), random_extractor(3, layers=3, width=4)
    findings = measure_images(Answer(data, lambda images: 1 - images), data, extractors=[extractor])
    found, (facts,) = figures(findings), findings.protocol["images"]["extractors"]
    rounded = (data.test.targets * 255).round() / 255
    sides = [extractor(2 * images - 1) for images in (1 - rounded, rounded)]
    assert found[("perceptual_distance",)].value == pytest.approx(float(perceptual_terms(*sides).mean()), rel=1e-5)
    vectors = [maps[-1].mean((2, 3)) for maps in sides]
    assert found[("frechet_distance",)].value == pytest.approx(frechet_distance(*vectors), rel=1e-4)
    assert (facts["name"], facts["weights"]) == ("random network, seed 0", extractor.fingerprint)
    assert facts["maps"] == ["layer 1: 4x16x16", "layer 2: 8x8x8", "layer 3: 16x4x4"]
    assert facts["features"] == 16


def test_segmentation_counts_wrong_pixels():
    data = pairs()
    shown = Answer(data, lambda images: torch.cat([images[:, :, :8], images[:, :, :8].flip(1)], 2))
    found = figures(measure_images(shown, data, segmentation=ByColour()))
    outputs = (shown.translate(data.test.inputs) * 255).round() / 255
    labels = ByColour()(outputs).argmax(1)
    wanted = float((labels == data.test.inputs[:, 0]).double().mean())
    assert found[("pixel_accuracy",)].value == pytest.approx(wanted)
    assert found[("pixel_accuracy", "real")].value == 1


def test_diversity_and_content_kept():
    data = pairs()
    measured = [
        figures(measure_images(Answer(data, spread=spread), data, extractors=[classifier()], styles=3))
        for spread in (0.02, 0.2)
    ]
    low, high = (found[("diversity",)].value for found in measured)
    assert 0 < low < high
    network = classifier()
    with torch.no_grad():
        labels = network.eval()((data.test.targets * 255).round() / 255).argmax(1)
    network.train()
    labels[:3] = 1 - labels[:3]
    found = figures(measure_images(Answer(data), data, classifier=network, labels=labels))
    assert found[("content_kept",)].value == pytest.approx(9 / 12)
    assert network.training


def test_pixels_that_nobody_labelled_do_not_count():
    data = pairs()
    shown = Answer(data, lambda images: torch.cat([images[:, :, :8], images[:, :, :8].flip(1)], 2))
    found = figures(measure_images(shown, replace(data, classes=("a", "b", "unknown")), segmentation=ByColour()))
    labels = ByColour()((shown.translate(data.test.inputs) * 255).round() / 255).argmax(1)
    truth = data.test.inputs[:, 0]
    known = truth < 2
    assert 0 < float((labels == truth)[known].double().mean()) < 1
    assert found[("pixel_accuracy",)].value == pytest.approx(float((labels == truth)[known].double().mean()))
    ious = [((labels == k) & (truth == k)).sum() / (((labels == k) & known) | (truth == k)).sum() for k in (0, 1)]
    assert found[("miou",)].value == pytest.approx(float(torch.stack(ious).mean()))


def test_the_foreground_of_a_mask_counts(tmp_path):
    """Masks saved as 0 and 255: what a network finds of the foreground is judged, not left out as unlabelled."""
    masks = torch.randint(2, (20, 16, 16), generator=torch.Generator().manual_seed(0)).mul(255).to(torch.uint8)
    for side in ("mask", "photo"):
        (tmp_path / side).mkdir()
        for at, mask in enumerate(masks):
            Image.fromarray(mask.numpy()).save(tmp_path / side / f"{at}.png")
    data = pf.load(tmp_path, task="translation", validation=0)
    shown = Answer(data, torch.zeros_like)  # The ground everywhere.

    class Bright(nn.Module):
        def forward(self, images):
            return torch.cat([1 - images, images], 1)

    found = figures(measure_images(shown, data, segmentation=Bright()))
    ground = float((data.test.inputs == 0).double().mean())
    assert 0.4 < ground < 0.6
    assert found[("pixel_accuracy",)].value == pytest.approx(ground)
    assert found[("miou",)].value == pytest.approx(ground / 2)
    assert found[("miou", "real")].value == 1


def test_outputs_come_in_many_styles():
    """With one style for all contents their distance to targets of several styles could never be small."""
    data, seen = pairs(paired=False), {}
    answer = Answer(pairs())

    class Styled:
        def translate(self, content, style=None, *, seed=0):
            seen[seed] = len(content)
            return answer.translate(content)

    findings = measure_images(Styled(), data)
    assert list(seen.values()) == [1] * 12
    assert "12 spans of contents" in findings.protocol["images"]["looks"]
    measure_images(Styled(), data)
    assert len(seen) == 12
    measure_images(Styled(), data, seed=1)
    assert len(seen) == 24


def test_unpaired_sides_have_no_paired_figures():
    data = pairs(paired=False)
    data = replace(data, test=pf.Split(data.test.inputs, data.test.targets[:7]))
    whole = pairs()
    names = {found.name for found in measure_images(Answer(whole), data, extractors=[classifier()]).measures}
    assert names == {"kernel_distance", "frechet_distance"}


def test_a_fitted_form_reads_images_of_other_sizes_and_channels():
    digits = pf.load("digits")
    form = pf.Training(epochs=1).fit(pf.nets.build("lenet", digits), digits)
    reader = FeatureReader(form, pairs())
    found = reader.read(torch.rand(3, 3, 16, 16))
    assert len(found.vectors) == 3
    assert np.isfinite(found.vectors.numpy()).all()
    assert reader.name == "Training(epochs=1) on digits"
    with pytest.raises(ConfigError, match="a form of one network"):
        members = pf.DeepEnsemble(members=2, training=pf.Training(epochs=1)).fit(form.module, digits)
        FeatureReader(members, pairs())


def test_faults():
    data = pairs()
    with pytest.raises(EmptySplitError, match="a test split with images"):
        measure_images(Answer(data), replace(data, test=pf.Split(data.test.inputs[:0], data.test.targets[:0])))
    with pytest.raises(DivergenceError, match="NaN or infinity in 12 of 12"):
        measure_images(Answer(data, lambda images: images * math.nan), data)
    with pytest.raises(ShapeError, match="12 images of 3 channels"):
        measure_images(Answer(data, lambda images: images[:, :1]), data)
    with pytest.raises(ConfigError, match="data for translation; got regression"):
        measure_images(Answer(data), replace(data, task="regression"))
    with pytest.raises(ShapeError, match=r"expected logits .batch, 3, 16, 16.; got .12, 2, 16, 16."):
        measure_images(Answer(data), data, segmentation=nn.Conv2d(3, 2, 1))
    with pytest.raises(ConfigError, match="the classes of 12 contents; got none"):
        measure_images(Answer(data), data, classifier=classifier())
    with pytest.raises(ConfigError, match="pairs of label maps"):
        measure_images(Answer(data), replace(data, paired=False), segmentation=ByColour())

import pytest
import torch

import pluriform as pf
from pluriform.evaluation.feature_reader import FeatureReader
from pluriform.evaluation.images import measure_images
from pluriform.evaluation.random_judge import random_judge


class Given:
    """Answers with known images, one after another."""

    def __init__(self, images):
        self.images = iter(images)

    def translate(self, content, style=None, *, seed=0):
        return torch.stack([next(self.images) for _ in content])


def squares(side=16, count=60):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, side, side, generator=generator)
    return pf.load(images, (images.mean(1, keepdim=True) * 0.5).expand(-1, 3, -1, -1).clone(), task="translation")


def test_features_are_as_large_as_inputs():
    """He-normal weights keep the mean square of white noise within a factor of two through every layer."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for layer in random_judge(3)[:2]:
        x = layer(x)
    assert 0.5 < float(x.square().mean()) < 2.0


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = random_judge(3), random_judge(3), random_judge(3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one[0].weight, again[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize("side", [4, 9, 32])
def test_reader_has_all_its_resolutions(side):
    data = squares(side)
    reader = FeatureReader(random_judge(3), data)
    found = reader.read(data.test.targets)
    assert found.vectors.shape[1] == 128
    sides = {-(-side // 2**place) for place in range(4)} - {1}
    assert {int(level.shape[2]) for level in found.maps} == sides
    assert reader.name == "random network (seed 0)"


def test_images_that_differ_are_farther_apart():
    data = squares()
    distances = {}
    for name, images in (("truth", data.test.targets), ("inputs", data.test.inputs)):
        findings = measure_images(Given(images), data, extractors=[random_judge(3)])
        found = {m.name: m.value for m in findings.measures if "images" not in m.condition}
        distances[name] = (found["kernel_distance"], found["perceptual_distance"])
    assert distances["truth"][1] == pytest.approx(0, abs=1e-9)
    assert distances["inputs"][0] > 10 * abs(distances["truth"][0])

import numpy as np
import pytest
import torch

from pluriform.errors import ShapeError
from pluriform.metrics.perceptual_distance import perceptual_terms, spread_terms


def features(seed, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *shape, generator=generator) for shape in ((4, 5, 6), (7,))]


def test_against_loops():
    first, second = features(0), features(1)
    for sample in range(3):
        layers = []
        for one, two in zip(first, second, strict=True):
            one, two = (side[sample].reshape(side.shape[1], -1).double().numpy() for side in (one, two))
            places = [
                ((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum() for a, b in zip(one.T, two.T, strict=True)
            ]
            layers.append(np.mean(places))
        assert float(perceptual_terms(first, second)[sample]) == pytest.approx(np.mean(layers), rel=1e-6)


def test_bounds():
    own = features(0)
    assert perceptual_terms(own, own).tolist() == [0, 0, 0]
    assert perceptual_terms(own, [-layer for layer in own]).tolist() == pytest.approx([4, 4, 4])
    assert perceptual_terms(own, [3 * layer for layer in own]).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert torch.isfinite(perceptual_terms(own, [0 * layer for layer in own])).all()


def test_spread_is_the_mean_over_pairs():
    members = [features(seed) for seed in range(3)]
    pairs = [perceptual_terms(members[i], members[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(spread_terms(members), sum(pairs) / 3)
    assert spread_terms([members[0]] * 3).abs().max() == 0
    with pytest.raises(ShapeError, match="at least two styles"):
        spread_terms(members[:1])


def test_layers_must_agree():
    with pytest.raises(ShapeError, match="same layers of both"):
        perceptual_terms(features(0), features(0, 2))

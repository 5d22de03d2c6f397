import pytest
import torch

from pluriform.data.signature import Signature
from pluriform.errors import ConfigError, ShapeError
from pluriform.nets.zoo import NAMES, build, default_name


def signature(*shape, outputs=10):
    return Signature("made", "classification", shape, outputs, tuple("abcdefghij")[:outputs], (0.0, 1.0))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_fits_every_usual_image(name, shape):
    assert build(name, signature(*shape, outputs=7))(torch.rand(2, *shape)).shape == (2, 7)


def test_published_sizes():
    def size(name, *shape):
        return sum(p.numel() for p in build(name, signature(*shape)).parameters())

    assert size("lenet", 1, 28, 28) == 61706
    assert size("wrn-28-10", 3, 32, 32) == pytest.approx(36.5e6, rel=0.01)
    assert size("resnet20", 3, 32, 32) == pytest.approx(0.27e6, rel=0.02)
    assert size("resnet110", 3, 32, 32) == pytest.approx(1.7e6, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_is_as_the_name_says(name):
    norms = [m for m in build(name, signature(1, 28, 28)).modules() if "BatchNorm" in type(m).__name__]
    assert bool(norms) == (name.endswith("-bn") or name in ("resnet20", "wrn-16-4"))


def test_seeds():
    first, same, other = (build("mlp", signature(1, 8, 8), seed=seed) for seed in (1, 1, 2))
    state = torch.random.get_rng_state()
    build("mlp", signature(1, 8, 8), seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_unknown_names_and_small_images():
    with pytest.raises(ConfigError, match=r"resnetD with D = 6n \+ 2.*did you mean 'resnet20'"):
        build("resnet21", signature(3, 32, 32))
    with pytest.raises(ShapeError, match="at least 8x8; got .13,..*use mlp"):
        build("lenet", signature(13))


def test_default_names():
    assert default_name(signature(1, 8, 8)) == "mlp"
    assert default_name(signature(13)) == "mlp"
    assert default_name(signature(1, 28, 28)) == "lenet"

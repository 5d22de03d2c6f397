import pytest
import torch

from pluriform.errors import ConfigError, ShapeError
from pluriform.training.augmentation import Augmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(64, 2, 6, 5, generator=generator(9)) + 0.1


def test_off_by_default(images):
    assert not Augmentation().active
    assert torch.equal(Augmentation().apply(images, 0.0, generator()), images)


def test_a_shift_moves_every_image_as_a_whole(images):
    moved = Augmentation(shift=1).apply(images, -1.0, generator())
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        places = [
            (dy, dx) for dy in range(3) for dx in range(3) if torch.equal(before[:, dy : dy + 6, dx : dx + 5], after)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9


def test_a_flip_mirrors_about_its_share(images):
    flipped = Augmentation(flip=0.5).apply(images, 0.0, generator())
    same = torch.tensor([torch.equal(a, b) for a, b in zip(images, flipped, strict=True)])
    mirrored = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(images, flipped, strict=True)])
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48
    assert torch.equal(Augmentation(flip=1).apply(images, 0.0, generator()), images.flip(-1))


def test_a_crop_of_a_ramp_is_a_slower_ramp():
    ramp = torch.linspace(0, 1, 12).expand(16, 1, 12, 12).contiguous()
    cut = Augmentation(crop=4).apply(ramp, 0.0, generator())
    assert cut.shape == ramp.shape
    slopes = cut[:, 0, 5, 2:-2].diff(dim=-1)
    assert torch.allclose(slopes, torch.full_like(slopes, 8 / 12 / 11), atol=1e-5)
    assert cut[:, 0, 5, 6].std() > 0.01


def test_the_same_generator_state_gives_the_same_images(images):
    augmentation = Augmentation(shift=2, flip=0.5, crop=1)
    first, second, third = (augmentation.apply(images, 0.0, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_tables_are_refused_only_where_there_is_something_to_do():
    Augmentation().check((7,))
    with pytest.raises(ShapeError, match=r"images .*got inputs of shape \(7,\).*leave augmentation off for tables"):
        Augmentation(flip=0.5).check((7,))
    with pytest.raises(ShapeError, match="larger than 8 pixels"):
        Augmentation(shift=8).check((1, 8, 8))


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"flip": 1.5}, {"crop": -2}])
def test_impossible_values(wrong):
    with pytest.raises(ConfigError, match=r"flip in \[0, 1\]"):
        Augmentation(**wrong)

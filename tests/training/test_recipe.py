import math

import pytest

from pluriform.errors import ConfigError
from pluriform.training.recipe import Recipe


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs: at least 1; got 0"),
        ({"batch_size": 0}, "batch_size: at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: a number above 0; got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: a number above 0; got nan"),
        ({"weight_decay": -1.0}, "weight_decay: 0 or more"),
        ({"warmup": 1.0}, r"warmup: a share in \[0, 1\)"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"class_weights": (1.0, 0.0)}, "class_weights"),
        ({"patience": 0}, "patience: at least 1 epoch, or None"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"ema": 1.0}, "ema: a decay"),
    ],
)
def test_impossible_values_are_named(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Recipe(**wrong)


def test_epochs_scale_with_the_data():
    assert Recipe().epochs_for(100) == 300
    assert Recipe().epochs_for(1300) == 60
    assert Recipe().epochs_for(20_000) == 20
    assert Recipe().epochs_for(60_000) == 15
    assert Recipe(epochs=3).epochs_for(60_000) == 3

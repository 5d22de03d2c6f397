from pluriform.data.describe import describe
from pluriform.data.load import load


def test_one_sentence_with_all_sizes():
    assert describe(load("digits")) == (
        "digits: classification, inputs 1x8x8 in [0, 1], 10 classes; 1294 train / 144 validation / 359 test samples"
    )
    assert (
        describe(load("toy-1d"))
        == "toy-1d: regression, inputs 1, 1 output; 108 train / 12 validation / 120 test samples"
    )

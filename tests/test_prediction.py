import numpy as np
import pytest
import torch

import pluriform as pf
from pluriform.errors import NonFiniteError, ShapeError
from pluriform.prediction import Prediction


@pytest.fixture(scope="module")
def form():
    data = pf.load("digits")
    return pf.Training(epochs=1).fit(pf.nets.build("mlp", data), data)


def test_parts_are_joined_along_the_batch():
    first = Prediction(torch.ones(2, 3), members=torch.ones(4, 2, 3), score=torch.zeros(2))
    second = Prediction(torch.zeros(1, 3), members=torch.zeros(4, 1, 3), score=torch.ones(1))
    joined = Prediction.concatenate([first, second])
    assert joined.mean.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert joined.members is not None
    assert joined.members.shape == (4, 3, 3)
    assert joined.variance is None
    assert joined.score.tolist() == [0, 0, 1]
    assert len(joined) == 3


def test_a_single_sample(form):
    assert form.predict(torch.rand(1, 1, 8, 8)).mean.shape == (1, 10)


def test_bad_inputs_are_said(form):
    nan = torch.rand(2, 1, 8, 8)
    nan[1, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="finite inputs; got NaN or infinity"):
        form.predict(nan)
    with pytest.raises(ShapeError, match=r"\(batch, 1, 8, 8\)"):
        form.predict(torch.rand(2, 64))


def test_the_module_moves_with_the_form(form):
    assert form.device.type == "cpu"
    assert np.isfinite(form.predict(torch.rand(2, 1, 8, 8)).mean.numpy()).all()


def test_forms_have_no_scores_that_need_gradients_unless_they_say_so(form):
    assert form.input_scores(torch.rand(2, 1, 8, 8)) == {}


def test_inputs_come_in_any_precision(form):
    inputs = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(form.predict(inputs).mean, form.predict(inputs.float()).mean)

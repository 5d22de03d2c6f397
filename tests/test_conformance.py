"""What every method promises, run over every method that exists: a new one without a case here fails the suite."""

import contextlib
import copy
import dataclasses
import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.encoding import record_from_json
from pluriform.errors import BoundsError, EmptySplitError, LabelError, NonFiniteError, RunConflictError, ShapeError
from pluriform.method import Method
from pluriform.narrow.fitnets import FitNets
from pluriform.narrow.pruned import PrunedWide
from pluriform.runs import Run
from pluriform.translate.segmentation import Segmentation
from pluriform.translate.translation import Translation


def small_cases() -> dict[str, Method]:
    """A quick configuration of every method, by class name."""
    training = pf.Training(epochs=2, batch_size=64)
    return {
        "Training": training,
        "DeepEnsemble": pf.DeepEnsemble(members=2, training=training),
        "HyperGAN": pf.HyperGAN(
            members=3,
            networks=4,
            noise_size=16,
            code_size=8,
            hidden=32,
            calling="vmap",  # `auto` is timed, and may fall differently in two fits.
            training=pf.Training(epochs=10, batch_size=32, learning_rate=3e-3),
        ),
        "InfiniteWidth": pf.InfiniteWidth(),
        "LastLayerLaplace": pf.LastLayerLaplace(members=3, training=training),
        "SWAG": pf.SWAG(members=3, rank=3, training=pf.Training(epochs=20, optimizer="sgd", learning_rate=0.05)),
        "MCDropout": pf.MCDropout(members=3, rate=0.1, training=training),
        "APD": pf.APD(members=3, samples=15, thin=2, burn_in=4, iterations=15, training=pf.Training(epochs=8)),
        "AdversarialTraining": pf.AdversarialTraining(
            "fgsm-rs", pf.Threat("linf", 0.05), pf.Training(epochs=10, batch_size=32)
        ),
        "Distillation": pf.Distillation(training=training, wide_training=training),
        "WideThenNarrow": pf.WideThenNarrow(
            wide_training=training, imitation=training, logits=training, training=training
        ),
        "FitNets": FitNets(training=training, wide_training=training, hint_training=training),
        "PrunedWide": PrunedWide(training=training, wide_training=training),
        "DAT": pf.DAT(training=pf.Training(epochs=2, learning_rate=1e-3), pretraining=4, steps=3),
        "JEM": pf.JEM(training=pf.Training(epochs=3, learning_rate=3e-3), buffer_size=500),
        "MorphismSearch": pf.MorphismSearch(
            trials=3, epochs=4, final=0, strategy="mutate", training=pf.Training(batch_size=32, learning_rate=3e-3)
        ),
        "MNF": pf.MNF(members=3, training=pf.Training(epochs=15, batch_size=32)),
        "Transfer": pf.Transfer("last-n", training=pf.Training(epochs=4, batch_size=32, learning_rate=1e-3)),
    }


def all_methods() -> dict[str, type[Method]]:
    """Every concrete `Method` in the package."""
    for module in pkgutil.walk_packages(pf.__path__, "pluriform."):
        importlib.import_module(module.name)

    def below(cls: type[Method]) -> list[type[Method]]:
        return [cls, *(deeper for child in cls.__subclasses__() for deeper in below(child))]

    return {
        cls.__name__: cls
        for cls in below(Method)
        if not inspect.isabstract(cls)
        and cls.__module__.startswith("pluriform.")
        and not issubclass(cls, Translation | Segmentation)  # Judged in tests/translate: images in and images out.
    }


CASES = small_cases()


@pytest.fixture(scope="module")
def data() -> Data:
    digits = pf.load("digits", seed=0)
    return dataclasses.replace(
        digits,
        **{name: Split(*getattr(digits, name).batch(torch.arange(120))) for name in ("train", "validation", "test")},
    )


@pytest.fixture(scope="module")
def net(data) -> nn.Module:
    return pf.nets.build("mlp", data, seed=3)


@pytest.fixture(scope="module", params=sorted(CASES))
def method(request) -> Method:
    return CASES[request.param]


@pytest.fixture(scope="module")
def form(method, net, data) -> nn.Module:
    return method.fit(net, data, seed=1)


@pytest.fixture(scope="module")
def finished(method, net, data, tmp_path_factory) -> tuple[nn.Module, Path]:
    """The same once more, in a run folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return method.fit(net, data, seed=1, run=folder), folder


def tensors(form: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in form.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_method_has_a_case_here():
    assert set(all_methods()) == set(CASES)


def test_a_method_is_a_frozen_dataclass_that_survives_json(method):
    assert type(method).__dataclass_params__.frozen
    again = record_from_json(json.loads(json.dumps(method.to_json())))
    assert again == method
    assert repr(again) == repr(method)
    assert type(method).__doc__
    assert all(field.name in type(method).__doc__ for field in dataclasses.fields(method))


def test_network_data_and_global_random_state_stay_unchanged(method, net, data):
    net = copy.deepcopy(net).train()
    next(net.children()).eval()
    before, modes = tensors(net), [part.training for part in net.modules()]
    samples = [split.inputs.clone() for split in (data.train, data.validation, data.test)]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    method.fit(net, data, seed=1)
    assert equal(before, tensors(net))
    assert modes == [part.training for part in net.modules()]
    assert all(torch.equal(a, b.inputs) for a, b in zip(samples, (data.train, data.validation, data.test), strict=True))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert all(p.grad is None for p in net.parameters())


def test_the_same_seed_gives_the_same_form(form, finished):
    assert equal(tensors(form), tensors(finished[0]))


def test_probabilities(form, data):
    x = data.test.inputs[:50]
    prediction = form.predict(x)
    assert prediction.mean.shape == (50, 10)
    assert torch.allclose(prediction.mean.sum(-1).double(), torch.ones(50).double(), atol=1e-5)
    assert (prediction.mean >= 0).all()
    assert torch.allclose(prediction.mean, form.eval()(x).softmax(-1).to(prediction.mean.dtype), atol=1e-5)
    if prediction.members is not None:
        assert torch.allclose(prediction.members.mean(0), prediction.mean, atol=1e-5)
    if prediction.variance is not None:
        assert prediction.variance.shape == (50, 10)
        assert (prediction.variance >= 0).all()
    if prediction.score is not None:
        assert prediction.score.shape == (50,)


def test_it_learns_something(form, data):
    hits = form.predict(data.test.inputs).mean.argmax(-1) == data.test.targets
    assert hits.float().mean() > 0.3


def test_batches_do_not_matter(form, data):
    x = data.test.inputs[:50]
    whole, parts = form.predict(x), form.predict(x, batch_size=7)
    assert torch.allclose(whole.mean, parts.mean, atol=1e-5)


def test_predict_restores_modes(form, data):
    form.train()
    first = next(iter(form.children()), form)
    first.eval()
    modes = [part.training for part in form.modules()]
    form.predict(data.test.inputs[:5])
    assert modes == [part.training for part in form.modules()]
    form.eval()


def test_the_form_can_be_attacked(form, data):
    x = data.test.inputs[:8].clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(form(x), data.test.targets[:8])
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).norm(dim=1) > 0).any()


def test_saved_and_loaded_forms_agree(form, data, tmp_path):
    again = pf.load_form(form.save(tmp_path / "form"))
    assert type(again) is type(form)
    assert equal(tensors(form), tensors(again))
    first, second = form.predict(data.test.inputs[:20]), again.predict(data.test.inputs[:20])
    assert torch.equal(first.mean, second.mean)
    assert again.signature == form.signature


def test_a_finished_run_is_loaded_and_another_configuration_refused(method, form, finished, net, data):
    _, folder = finished
    stamp = (folder / "done").stat().st_mtime_ns
    again = method.fit(net, data, seed=1, run=folder)
    assert (folder / "done").stat().st_mtime_ns == stamp
    assert equal(tensors(form), tensors(again))
    with pytest.raises(RunConflictError, match=r"seed=1; got seed=2"):
        method.fit(net, data, seed=2, run=folder)


def test_a_fit_that_was_stopped_twice_equals_an_uninterrupted_one(method, form, net, data, tmp_path, monkeypatch):
    """After the first write of the fit, and after the second write of the one that goes on."""
    real, left = Run.write_tensors, [1]

    def stop_after(self, *args, **kwargs):
        real(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop_after)
    for writes in (1, 2):
        left[0] = writes
        with contextlib.suppress(KeyboardInterrupt):
            method.fit(net, data, seed=1, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    assert equal(tensors(form), tensors(method.fit(net, data, seed=1, run=tmp_path / "run")))


def changed(data: Data, **splits: Split) -> Data:
    return dataclasses.replace(data, **splits)


def bad_inputs(data: Data) -> dict[str, tuple[Data, type[Exception], str]]:
    x, y = data.train.inputs, data.train.targets
    nan, outside, label = x.clone(), x.clone(), y.clone()
    nan[3, 0, 2, 2], outside[5], label[7] = torch.nan, outside[5] * 255, 12
    return {
        "nan": (changed(data, train=Split(nan, y)), NonFiniteError, "finite.*sample 3"),
        "infinity": (changed(data, train=Split(nan.nan_to_num(torch.inf), y)), NonFiniteError, "finite.*sample 3"),
        "label": (changed(data, train=Split(x, label)), LabelError, "12.*sample 7"),
        "one class": (changed(data, train=Split(x, y * 0)), LabelError, "classes"),
        "empty": (changed(data, train=Split(x[:0], y[:0])), EmptySplitError, "0 samples"),
        "bounds": (changed(data, train=Split(outside, y)), BoundsError, "divide by 255|/ 255"),
        "dtype": (changed(data, train=Split((x * 255).to(torch.uint8), y)), ShapeError, "float"),
        "lengths": (changed(data, train=Split(x, y[:-1])), ShapeError, "119|120"),
    }


@pytest.mark.parametrize("fault", ["nan", "infinity", "label", "one class", "empty", "bounds", "dtype", "lengths"])
def test_bad_data_raise_the_promised_error(method, net, data, fault):
    wrong, error, words = bad_inputs(data)[fault]
    with pytest.raises(error, match=words) as caught:
        method.fit(net, wrong)
    assert all(part in str(caught.value) for part in ("expected ", "; got ", "To fix: "))


def test_a_network_of_another_output_width_is_refused(method, data):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    if isinstance(method, pf.Transfer):  # The one that replaces the last layer.
        method = dataclasses.replace(method, mode="fixed-feature")
        assert method.fit(net, data)(data.test.inputs[:2]).shape == (2, 10)
        return
    with pytest.raises(ShapeError, match=r"\(batch, 10\).*got \(2, 7\).*give its last layer 10 outputs"):
        method.fit(net, data)


def test_a_network_for_other_inputs_is_refused(method, data):
    net = nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
    with pytest.raises(ShapeError, match=r"inputs of shape \(batch, 1, 8, 8\)"):
        method.fit(net, data)


def test_predict_refuses_other_shapes(form):
    with pytest.raises(ShapeError, match=r"\(batch, 1, 8, 8\).*got \(3, 8, 8\)"):
        form.predict(torch.zeros(3, 8, 8))
    with pytest.raises(ShapeError, match="batch at least 1"):
        form.predict(torch.zeros(0, 1, 8, 8))

import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.errors import ConfigError, ShapeError
from pluriform.graph.fingerprint import fingerprint
from pluriform.method import check_kinds, check_module


def test_labels_show_what_differs_from_the_defaults():
    assert pf.Training().label == "Training"
    assert pf.Training(epochs=3).label == "Training(epochs=3)"
    assert pf.Training(epochs=3, batch_size=8, ema=0.9).label == "Training(epochs=3, batch_size=8, …)"
    assert pf.DeepEnsemble(members=2, training=pf.Training(epochs=3)).label == "DeepEnsemble(members=2, …)"


@pytest.mark.parametrize("method", [pf.SWAG, pf.MCDropout, pf.JEM, pf.DAT, pf.MNF, pf.AdversarialTraining])
def test_fresh_weights_asked_of_a_part_that_draws_none_are_refused(method):
    data = pf.load("digits")
    net = pf.nets.build("mlp", data)
    with pytest.raises(ConfigError, match=r"got training with reinitialise=True.*reinitialise the network before"):
        method(training=pf.Training(epochs=1, reinitialise=True)).fit(net, data)


def test_fingerprints_tell_weights_and_architectures_apart():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    first = fingerprint(net)
    assert fingerprint(nn.Sequential(net[0], nn.Tanh())) != first
    with torch.no_grad():
        net[0].bias[1] += 1e-7
    assert fingerprint(net) != first
    assert fingerprint(None) != first


def test_check_module_runs_in_evaluation_mode_and_restores(monkeypatch):
    data = pf.load("digits")
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    net[2].eval()
    before = net[1].running_mean.clone()
    check_module(net, data)
    assert torch.equal(net[1].running_mean, before)
    assert [part.training for part in net] == [True, True, False]

    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ShapeError, match=r"got tuple .*Two on digits.*return one tensor"):
        check_module(Two(), data)


def test_a_finished_run_of_a_class_local_to_a_function_is_loaded_with_the_users_network(tmp_path):
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.flatten(1))

    data, method, net = pf.load("digits"), pf.Training(epochs=1), Local()
    first = method.fit(net, data, run=tmp_path / "run")
    again = method.fit(net, data, run=tmp_path / "run")
    assert type(again.module) is Local
    assert torch.equal(first.module.linear.weight, again.module.linear.weight)


def test_methods_are_values():
    assert pf.Training(epochs=3) == pf.Training(epochs=3)
    assert len({pf.Training(epochs=3), pf.Training(epochs=3), pf.Training()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        pf.Training().epochs = 4  # type: ignore[misc]


def test_wrong_arguments_are_said():
    data = pf.load("digits")
    with pytest.raises(ConfigError, match="expected a Data; got tuple"):
        check_kinds(nn.Linear(1, 1), (1, 2), True)
    for module in ("lenet", None):
        with pytest.raises(ConfigError, match=r"expected a torch.nn.Module; got (str|NoneType)"):
            check_kinds(module, data, True)
    check_kinds(None, data, False)
    with pytest.raises(ConfigError, match="a device that torch can use; got 'gpu'"):
        pf.Training().fit(pf.nets.build("mlp", data), data, device="gpu")


def test_any_failure_of_the_users_forward_is_explained():
    class Picky(nn.Module):
        def forward(self, x):
            raise KeyError("channel")

    with pytest.raises(ShapeError, match="KeyError: 'channel'"):
        check_module(Picky(), pf.load("digits"))


def test_a_form_knows_what_made_it(tmp_path):
    data = pf.load("digits")
    form = pf.Training(epochs=1).fit(pf.nets.build("mlp", data), data, seed=4)
    again = pf.load_form(form.save(tmp_path / "form"))
    assert again.origin == form.origin
    result = pf.evaluate(again, data, corruptions=())
    assert (result.form, result.network) == ("Training(epochs=1)", "MLP")
    assert result.method == pf.Training(epochs=1).to_json()

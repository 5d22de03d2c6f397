import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.errors import GraphError, ShapeError
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.trace import trace
from pluriform.narrow.distillation import Distillation
from pluriform.narrow.fitnets import FitNets, differing_axis, middle
from pluriform.runs import Run
from pluriform.training.loop import Loop

SHORT = pf.Training(epochs=2, batch_size=60)


@pytest.fixture(scope="module")
def digits() -> Data:
    data = pf.load("digits", seed=0)
    cut = {name: Split(*getattr(data, name).batch(torch.arange(120))) for name in ("train", "validation", "test")}
    return dataclasses.replace(data, **cut)


def convolutions(width: int = 1) -> nn.Module:
    torch.manual_seed(width)
    a, b = 4 * width, 6 * width
    first = [nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(a, b, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(36 * b, 10))


@pytest.fixture(scope="module")
def wide(digits, tmp_path_factory) -> str:
    form = pf.Training(epochs=6, batch_size=20).fit(convolutions(3), digits)
    return str(form.save(tmp_path_factory.mktemp("wide") / "form"))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def stages(monkeypatch) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Weights of the thin network before and after every training, taken as it goes."""
    seen, real = [], Loop.run

    def run(self):
        before = state(self.network)
        cost = real(self)
        seen.append({"label": self.label, "before": before, "after": state(self.network)})
        return cost

    monkeypatch.setattr(Loop, "run", run)
    return seen


def test_the_first_stage_changes_the_prefix_alone_and_the_second_goes_on(digits, wide, monkeypatch):
    seen, net = stages(monkeypatch), convolutions()
    start = state(net)
    form = FitNets(wide=wide, training=SHORT, hint_training=SHORT).fit(net, digits)
    assert [stage["label"] for stage in seen] == ["hint", "training"]
    assert (form.facts["guided"], form.facts["hint"]) == ("2", "2")
    assert set(form.facts["networks"]) == {"thin", "wide"}
    assert form.cost["sample_passes"] == form.cost["hint_sample_passes"] + form.cost["training_sample_passes"]
    hinted = {name for name in seen[0]["after"] if not name.startswith("regressor")}
    assert {name.split(".")[1] for name in hinted} == {"0", "1"}
    assert seen[0]["after"]["regressor.weight"].shape == (12, 4)
    after = seen[1]["before"]
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed == {name for name in start if name.split(".")[0] in ("0", "1")}
    assert all(torch.equal(after[name.removeprefix("prefix.")], seen[0]["after"][name]) for name in hinted)
    assert form.module.state_dict().keys() == start.keys()
    assert len(form.history["hint_loss"]) == 2
    assert len(form.history["validation_accuracy"]) == 2
    assert form.cost["sample_passes"] == 480


def test_averages_of_the_second_stage_start_behind_the_first(digits, wide):
    """At a rate of nearly nothing in the second stage, the result is what the first left."""
    still = dataclasses.replace(SHORT, learning_rate=1e-12, ema=0.999)
    net = nn.Sequential(*[part for part in convolutions() if not isinstance(part, nn.BatchNorm2d)])
    wider = nn.Sequential(*[part for part in convolutions(3) if not isinstance(part, nn.BatchNorm2d)])
    path = wide + "-plain"
    pf.Training(epochs=1).fit(wider, digits).save(path)
    form = FitNets(wide=path, training=still, hint_training=dataclasses.replace(SHORT, epochs=4)).fit(net, digits)
    assert (form.module[0].weight - net[0].weight).abs().max() > 1e-3
    assert torch.equal(form.module[2].weight, net[2].weight) or torch.allclose(form.module[2].weight, net[2].weight)


def test_the_hint_is_learned(digits, tmp_path):
    """From the wide network's own weights, the regressor alone has to become the identity."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    form = pf.Training(epochs=1, batch_size=20).fit(net, digits)
    path, long = str(form.save(tmp_path / "wide")), pf.Training(epochs=30, batch_size=20, learning_rate=0.03)
    losses = FitNets(wide=path, training=SHORT, hint_training=long).fit(form.module, digits).history["hint_loss"]
    assert losses[0] > 0.5
    assert losses[-1] < 0.2


def test_without_hints_it_is_distillation(digits, wide, monkeypatch):
    monkeypatch.setattr(FitNets, "_hint_loop", lambda self, *args: Nothing())
    fit = FitNets(wide=wide, training=SHORT).fit(convolutions(), digits, seed=2)
    assert fingerprint(fit.module) == fingerprint(
        Distillation(wide=wide, training=SHORT).fit(convolutions(), digits, seed=2).module
    )


class Nothing:
    label, columns = "hint", {}

    def run(self):
        from pluriform.training.cost import FitCost

        return FitCost(0.0, 0, 0, 0, 0.0)


@pytest.mark.parametrize("writes", [1, 4, 7])
def test_an_interrupted_fit_goes_on(digits, tmp_path, monkeypatch, writes):
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SECONDS", 0.0)  # After every step.
    monkeypatch.setattr("pluriform.training.loop.CHECKPOINT_SHARE", 1e9)
    one = dataclasses.replace(SHORT, epochs=1)
    method = FitNets(training=one, wide_training=one, hint_training=one)
    whole = method.fit(convolutions(), digits, seed=1)
    real, count = Run.write_tensors, []

    def stop(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(1)
        if len(count) == writes:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "write_tensors", stop)
    with pytest.raises(KeyboardInterrupt):
        method.fit(convolutions(), digits, seed=1, run=tmp_path / "run")
    monkeypatch.setattr(Run, "write_tensors", real)
    assert fingerprint(method.fit(convolutions(), digits, seed=1, run=tmp_path / "run")) == fingerprint(whole)


@pytest.mark.parametrize(("widths", "expected"), [([5], "1"), ([5, 6], "1"), ([5, 6, 7], "3"), ([5, 6, 7, 8, 9], "5")])
def test_the_middle_of_a_chain(widths, expected):
    layers: list[nn.Module] = []
    for before, after in zip([4, *widths], [*widths, 2], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    assert middle(trace(nn.Sequential(*layers[:-1]), torch.zeros(1, 4))) == expected


def test_layers_that_do_not_fit_are_named(digits, wide):
    with pytest.raises(GraphError, match=r"hidden layer.*guided="):
        middle(trace(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(1, 64)))
    with pytest.raises(ShapeError, match=r"guided layer 2 but for its channels, 4x8x8; got 18x6x6 at 4.*hint="):
        FitNets(wide=wide, hint="4", training=SHORT).fit(convolutions(), digits)
    with pytest.raises(GraphError, match="name of a node"):
        FitNets(wide=wide, guided="nothing", training=SHORT).fit(convolutions(), digits)


def test_the_axis_of_channels_is_where_the_widths_differ():
    def axis(thin: nn.Module, wide: nn.Module, example: torch.Tensor) -> int:
        return differing_axis(trace(thin, example), "0", trace(wide, example), "0")

    tokens = torch.zeros(2, 7, 3)
    assert axis(nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 8)), tokens) == 2
    assert axis(nn.Sequential(nn.Conv1d(7, 4, 1)), nn.Sequential(nn.Conv1d(7, 8, 1)), tokens) == 1
    assert axis(nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4)), tokens) == 2
    assert axis(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(2, 3, 4, 4)) == 1
    assert axis(nn.Sequential(nn.Conv1d(7, 4, 1)), nn.Sequential(nn.Conv1d(7, 4, 1)), tokens) == 1

"""Drawn inputs: no selection, one and the same chain over its steps, pictures and figures that say the same."""

import base64
import io
import json
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pluriform.data.data import Data, Split
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.langevin import Langevin
from pluriform.energy.model import EnergyModel
from pluriform.energy.space import Space
from pluriform.energy.start import UniformStart
from pluriform.errors import ConfigError
from pluriform.evaluation import samples as module
from pluriform.evaluation.evaluate import evaluate
from pluriform.evaluation.samples import measure_samples
from pluriform.evaluation.subject import Subject
from pluriform.prediction import Prediction, Predictor
from pluriform.result import Result


class Climber(Predictor):
    """log p(x) = -10 |x - 1/2|^2; a step takes a tenth of the way to 1/2, or to the class's own grey."""

    def __init__(self, signature, conditional=False, chains=90, keeps=True):
        super().__init__(signature)
        self.conditional, self.keeps = conditional, keeps
        self.sampler = SimpleNamespace(steps=4)
        self.buffer = torch.rand(chains, *signature.input_shape, generator=torch.Generator().manual_seed(5))

    def forward(self, inputs):
        grey = inputs.flatten(1).mean(1, keepdim=True)
        return -100 * (grey - torch.tensor([[0.0, 0.5, 1.0]])).square()

    def predict_batch(self, inputs):
        return Prediction(self(inputs).softmax(-1), score=-10 * (inputs - 0.5).square().flatten(1).sum(1))

    def sample(self, count, label=None, *, seed=0, steps=None, fresh=None):
        if fresh is False and not self.keeps:
            raise ConfigError("keeps no chains")
        generator = torch.Generator().manual_seed(seed)
        state = torch.rand(count, *self.signature.input_shape, generator=generator)
        block = len(self.buffer) // 3
        if not fresh:
            kept = self.buffer if label is None else self.buffer[label * block : (label + 1) * block]
            state = kept[:count]
        goal = 0.5 if label is None else label / 2
        for _ in range(steps):
            state = state + 0.1 * (goal - state)
        return state


def climber(data, **facts):
    return Subject(Climber(data.signature, **facts), data)


def read(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_forms_that_draw_nothing_have_no_findings(form, pair, data):
    for other in (form, pair):
        findings = measure_samples(Subject(other, data))
        assert (findings.curves, findings.pictures, findings.protocol) == ((), (), {})


def test_the_first_samples_are_shown_with_their_figures(data):
    subject = climber(data)
    findings = measure_samples(subject)
    (samples, _) = findings.pictures
    expected = subject.form.sample(90, seed=0, steps=4, fresh=False)[:40]
    assert np.array_equal(np.stack([read(text) for text in samples.png]), (expected[:, 0] * 255).round().numpy())
    said = subject.form.predict(expected)
    assert samples.columns["log_density"] == pytest.approx(said.score.tolist(), abs=1e-3)
    assert samples.columns["predicted"] == said.mean.argmax(-1).tolist()
    assert "label" not in samples.columns
    told = findings.protocol["samples"]
    assert (told["count"], told["shown"], told["test_samples"]) == (90, 40, 240)
    assert (told["score"], told["steps_per_sample"], told["selection"]) == ("log p(x)", 4, "none, the first ones")
    assert (told["chains"], told["buffer"]) == ("of the buffer", 90)


def test_chains_with_classes_show_each_class_in_its_column(data):
    subject = climber(data, conditional=True)
    samples, chain = measure_samples(subject).pictures
    assert samples.columns["label"] == [0, 1, 2] * 10
    for place, label in enumerate(samples.columns["label"]):
        expected = subject.form.sample(10, label, seed=0, steps=4, fresh=False)[place // 3]
        assert np.array_equal(read(samples.png[place]), (expected[0] * 255).round().numpy())
    assert chain.columns["label"] == [0] * 6 + [1] * 6 + [2] * 6
    last = [read(text) for text, step in zip(chain.png, chain.columns["step"], strict=True) if step == 200]
    assert [float(picture.mean()) for picture in last] == pytest.approx([0, 127.5, 255], abs=0.5)


def test_a_chain_stays_the_same_chain_over_its_steps(data):
    findings = measure_samples(climber(data))
    chain = findings.pictures[1]
    assert chain.columns["step"] == [0, 1, 5, 20, 100, 200] * 3
    assert chain.columns["chain"] == [0] * 6 + [1] * 6 + [2] * 6
    states = np.stack([read(text) for text in chain.png]).astype(float).reshape(3, 6, 6, 6) / 255
    for own in states:
        assert own[1] == pytest.approx(own[0] + 0.1 * (0.5 - own[0]), abs=0.004)
        assert own[2] == pytest.approx(0.5 + 0.9**5 * (own[0] - 0.5), abs=0.004)
    assert np.abs(states[0, 0] - states[1, 0]).mean() > 0.2
    curve = next(c for c in findings.curves if c.name == "chain_log_density")
    assert curve.columns["step"] == [0, 1, 5, 20, 100, 200]
    assert curve.columns["chain_2"] == pytest.approx(chain.columns["log_density"][6:12], abs=1e-3)
    assert curve.columns["chain_2"] == sorted(curve.columns["chain_2"])


def test_the_chains_of_an_energy_model_go_on_with_noise(data):
    """The states of a noisy chain at 5 and 20 steps come from one path: the later one by 15 more steps of it."""
    torch.manual_seed(0)
    space = Space.of(data)
    buffer = ReplayBuffer(UniformStart(space, (1, 6, 6)), 30, 3, torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    form = EnergyModel(network, data.signature, buffer, Langevin(steps=2, step=0.01, noise=0.1, clamp_inputs=False))
    path = [form.sample(2, seed=7, steps=steps, fresh=True) for steps in range(4)]
    moves = [after - before for before, after in pairwise(path)]
    weight = network[1].weight.detach()
    for before, move in zip(path, moves, strict=False):
        gradient = (network(before).detach().softmax(-1) @ weight).view_as(before) * 0.25
        noise = (move - 0.01 * gradient) / (0.1 * 0.5)
        assert float(noise.std()) == pytest.approx(1, abs=0.25)  # Two unrelated paths would differ by far more.
    assert float((moves[0] - moves[1]).abs().mean()) > 0.01
    findings = measure_samples(Subject(form, data))
    assert findings.protocol["roll_backs"] == {"count": 0}
    assert len(findings.pictures[0].png) == 30


def test_scores_are_compared_with_those_of_the_data(data):
    subject = climber(data)
    density, quantiles, _ = measure_samples(subject).curves
    assert density.name == "log_density"
    known = subject.test.prediction.score.numpy()
    drawn = subject.form.predict(subject.form.sample(90, steps=4, fresh=False)).score.numpy()
    low, high = min(known.min(), drawn.min()), max(known.max(), drawn.max())
    for name, values in (("test", known), ("samples", drawn)):
        counts, edges = np.histogram(values.astype(float), 40, (low, high))
        assert density.columns[name] == pytest.approx((counts / len(values)).tolist(), abs=2.1 / len(values))
        assert sum(density.columns[name]) == pytest.approx(1)
        expected = np.quantile(values.astype(float), quantiles.columns["quantile"])
        assert quantiles.columns[name] == pytest.approx(expected.tolist())
    assert density.columns["centers"] == pytest.approx(((edges[1:] + edges[:-1]) / 2).tolist(), rel=1e-5)


def test_forms_without_chains_of_their_own_draw_new_ones_of_each_class(data):
    findings = measure_samples(climber(data, keeps=False))
    samples, chain = findings.pictures
    assert samples.columns["label"] == [0, 1, 2] * 10
    assert max(chain.columns["step"]) == 4
    told = findings.protocol["samples"]
    assert (told["chains"], told["shown_of_each_class"]) == ("new ones", 10)
    assert "buffer" not in told


def test_dear_steps_are_left_out(data, monkeypatch):
    """A pass over 240 test samples pays for 120 steps: 3 x (0 + 1 + 5 + 20), and 3 steps of the 40 that are shown."""
    monkeypatch.setattr(module, "LEAST_MACS", 0)
    told = measure_samples(climber(data)).protocol["samples"]
    assert told["new_chains"] == "3, at steps 0, 1, 5, 20"
    assert (told["count"], told["steps_per_sample"]) == (40, 3)


def test_where_steps_are_dear_fewer_samples_make_all_of_them(data, monkeypatch):
    monkeypatch.setattr(module, "count_macs", lambda *_: 10)
    monkeypatch.setattr(module, "LEAST_MACS", 2 * 10 * 4 * 70)
    told = measure_samples(climber(data)).protocol["samples"]
    assert (told["count"], told["steps_per_sample"]) == (70, 4)


def test_scores_that_are_all_the_same_fill_a_range_worth_telling(data, monkeypatch):
    flat = lambda self, x: Prediction(self(x).softmax(-1), score=torch.full((len(x),), 0.25))  # noqa: E731
    monkeypatch.setattr(Climber, "predict_batch", flat)
    density = measure_samples(climber(data)).curves[0]
    assert max(density.columns["test"]) == 1
    assert density.columns["centers"][-1] - density.columns["centers"][0] == pytest.approx(0.1 * 39 / 40)


def test_tables_have_figures_and_no_pictures():
    split = Split(torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
    findings = measure_samples(climber(Data("table", "classification", split, split, split, ("a", "b", "c"))))
    assert findings.pictures == ()
    assert [curve.name for curve in findings.curves] == ["log_density", "log_density_quantiles", "chain_log_density"]
    assert findings.protocol["samples"]["count"] == 90
    assert "shown" not in findings.protocol["samples"]


def test_lost_chains_are_said(data, monkeypatch):
    subject = climber(data)
    monkeypatch.setattr(Climber, "sample", lambda self, count, *_, **__: torch.full((count, 1, 6, 6), torch.nan))
    findings = measure_samples(subject)
    assert findings.protocol == {"samples": {"skipped": "chains reach NaN or infinity"}}
    assert (findings.curves, findings.pictures) == ((), ())


def test_samples_beyond_the_bounds_are_said(data):
    subject = climber(data)
    subject.form.buffer[0, 0, 0, :3] = 9
    told = measure_samples(subject).protocol["samples"]
    assert told["beyond_bounds"] == "0.21 % of the pixels, shown clamped"  # 3 of 40 x 36.


def test_chains_that_never_reach_the_data_are_noticed(data):
    near, far = climber(data), climber(data)
    far.form.buffer += 9
    found = [measure_samples(subject).measures for subject in (near, far)]
    assert [(m.name, m.value, m.better) for (m,) in found] == [
        ("chains_apart", 0.0, "lower"),
        ("chains_apart", 1.0, "lower"),
    ]


def test_roll_backs_are_told(data):
    subject = climber(data)
    subject.form.events = [{"step": 512, "reason": "loss is nan", "restored": 400, "change": "learning rate halved"}]
    assert measure_samples(subject).protocol["roll_backs"] == {
        "count": 1,
        "events": ["at step 512: loss is nan; back to step 400, learning rate halved"],
    }


def test_colour_noise_stays_small():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(40, 3, 32, 32, generator=generator)
    split = Split(inputs, torch.arange(40) % 3)
    data = Data("noise", "classification", split, split, split, ("a", "b", "c"), (0.0, 1.0))
    findings = measure_samples(climber(data))
    assert [len(found.png) for found in findings.pictures] == [20, 12]
    assert len(json.dumps([asdict(found) for found in findings.pictures])) < 150_000


def test_a_result_holds_pictures_and_is_read_back(data):
    form = climber(data).form
    result = evaluate(form, data, corruptions=())
    assert [found.name for found in result.pictures] == ["samples", "chain"]
    assert "samples" in result.protocol
    again = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert again.pictures[0].png == result.pictures[0].png
    assert again.pictures[1].columns == result.pictures[1].columns
    old = replace(result, pictures=()).to_json()
    del old["pictures"]
    assert Result.from_json(old).pictures == ()

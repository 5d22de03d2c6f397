"""Pictures of attacked samples: which are shown, what they hold, and that pictures and figures say the same."""

import base64
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pluriform.attacks.attack import attack
from pluriform.attacks.threat import Threat
from pluriform.data.data import Data, Split
from pluriform.errors import ConfigError
from pluriform.evaluation.adversarial import measure_adversarial
from pluriform.evaluation.subject import Subject

THREAT = Threat("linf", 0.2)


@pytest.fixture(scope="module")
def findings(form, data):
    return measure_adversarial(Subject(form, data), [Threat("l2", 1.0), THREAT])


def read(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


def test_four_rows_of_pictures_of_the_same_samples(findings):
    assert [found.name for found in findings.pictures] == ["clean", "attacked", "perturbation", "input_gradient"]
    first = findings.pictures[0]
    for found in findings.pictures:
        assert dict(found.condition) == {"threat": "linf", "attack": "pgd", "eps": 0.2}
        assert (found.columns["sample"], found.columns["label"]) == (first.columns["sample"], first.columns["label"])
        assert {len(found.png), *(len(column) for column in found.columns.values())} == {6}
    assert first.columns["label"] == [0, 0, 1, 1, 2, 2]
    assert findings.measures == ()


def test_the_first_correct_samples_of_each_class_are_shown(form, data, findings):
    """Nothing is chosen by what the attack did: only by the order and by the answer to the clean sample."""
    clean = findings.pictures[0].columns
    said = form.predict(data.test.inputs).mean
    order = torch.randperm(240, generator=torch.Generator().manual_seed(0)).tolist()
    expected = []
    for label in range(3):
        own = [i for i in order if int(data.test.targets[i]) == label == int(said[i].argmax())]
        expected += own[:2]
    assert clean["sample"] == expected
    assert clean["predicted"] == clean["label"]
    assert clean["confidence"] == pytest.approx(said[expected].amax(1).tolist(), abs=1e-3)
    other = measure_adversarial(Subject(form, data, 1), [THREAT]).pictures[0].columns["sample"]
    assert other != clean["sample"]


def test_pictures_hold_what_the_attack_gives_and_figures_are_of_them(form, data, findings):
    clean, attacked, change, _ = findings.pictures
    index = torch.tensor(clean.columns["sample"]).long()
    x, y = data.test.inputs[index], data.test.targets[index]
    moved = attack(form, x, y, THREAT, "pgd", 0, steps=20, stop_when_broken=False)
    assert np.array_equal(np.stack([read(t) for t in clean.png]), (x[:, 0] * 255).round().numpy())
    assert np.array_equal(np.stack([read(t) for t in attacked.png]), (moved[:, 0] * 255).round().numpy())
    said = form.predict(moved).mean
    assert attacked.columns["predicted"] == said.argmax(1).tolist()
    assert attacked.columns["confidence"] == pytest.approx(said.amax(1).tolist(), abs=1e-3)
    assert change.columns["factor"] == pytest.approx([2.5] * 6, rel=1e-4)  # 0.2 becomes half of the range.
    expected = 127.5 + 255 * 2.5 * (moved - x)[:, 0].numpy()
    assert np.abs(np.stack([read(t) for t in change.png]) - expected).max() <= 0.51


def test_the_gradient_is_that_of_the_loss_at_the_clean_sample(form, data, findings):
    shown = findings.pictures[3]
    index = torch.tensor(shown.columns["sample"]).long()
    x = data.test.inputs[index].requires_grad_()
    F.cross_entropy(form(x), data.test.targets[index], reduction="sum").backward()
    scale = 3 * x.grad.flatten(1).square().mean(1).sqrt()
    assert shown.columns["at_white"] == pytest.approx(scale.tolist(), rel=1e-3)
    expected = (127.5 + 127.5 * (x.grad / scale.view(-1, 1, 1, 1))[:, 0].numpy()).clip(0, 255)
    assert np.abs(np.stack([read(t) for t in shown.png]) - expected).max() <= 0.51


def test_the_protocol_tells_how(findings):
    told = findings.protocol["adversarial"]
    assert (told["threat"], told["eps"], told["count"], told["seed"]) == ("linf", 0.2, 6, 0)
    assert told["selection"].startswith("the first correctly classified")
    assert told["perturbation"] == "times 2.5"
    assert told["pgd"].startswith("20 steps of 2.5 eps / 20")


def test_without_the_maximum_norm_the_first_threat_is_taken(form, data):
    (clean, *_, change, _) = measure_adversarial(Subject(form, data), [Threat("l2", 1.0), Threat("l1", 3.0)]).pictures
    assert dict(clean.condition) == {"threat": "l2", "attack": "pgd", "eps": 1.0}
    levels = np.stack([read(text) for text in change.png])
    assert {levels.min(), levels.max()} & {0, 255}
    assert change.columns["factor"][0] > 0.5  # An L2 ball of 1 moves no value by more than 1.


def test_no_more_classes_than_there_is_room_for(form):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.rand(400, 1, 4, 4, generator=generator), torch.arange(400) % 20)
    names = tuple(f"class {i}" for i in range(20))
    data = Data("many", "classification", split, split, split, names, (0.0, 1.0))

    class Oracle(type(form)):
        """Right everywhere, since it is asked about the training data: a lookup with a gradient."""

        def forward(self, inputs):
            gaps = torch.cdist(inputs.flatten(1), split.inputs.flatten(1))
            return torch.zeros(len(inputs), 20).index_add(1, split.targets, (-30 * gaps).softmax(1)) * 9

    found = measure_adversarial(Subject(Oracle(nn.Identity(), data.signature), data), [Threat("linf", 0.1)])
    assert found.pictures[0].columns["label"] == [0, 2, 5, 8, 10, 13, 16, 19]


def test_what_cannot_be_attacked_is_skipped_with_the_reason(form, data):
    class Rounded(type(form)):
        def forward(self, inputs):
            return super().forward(inputs).detach()

    class Missing(type(form)):
        def forward(self, inputs):
            if torch.is_grad_enabled():
                raise NotImplementedError
            return super().forward(inputs)

    def told(form, data):
        found = measure_adversarial(Subject(form, data), [THREAT])
        assert found.pictures == ()
        return found.protocol["adversarial"]["skipped"]

    assert "no gradient from the forward of Rounded" in told(Rounded(form.module, data.signature), data)
    assert told(Missing(form.module, data.signature), data) == "Missing has no differentiable forward"
    assert told(form, replace(data, bounds=None)) == "stripes has no bounds, which a threat needs"
    upside = replace(data, test=Split(data.test.inputs, (form.predict(data.test.inputs).mean.argmax(1) + 1) % 3))
    assert told(form, upside) == "no test sample is classified correctly"


def test_nothing_to_attack_is_nothing_found(form, data):
    for threats in ([], [Threat("linf", 0)]):
        assert measure_adversarial(Subject(form, data), threats).protocol == {}
    split = Split(torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
    table = Data("table", "classification", split, split, split, ("a", "b", "c"), (0.0, 1.0))
    found = measure_adversarial(Subject(type(form)(nn.Linear(4, 3), table.signature), table), [THREAT])
    assert (found.pictures, found.protocol) == ((), {})


def test_a_form_without_any_slope_gives_grey_gradients(form, data):
    class Saturated(type(form)):
        def forward(self, inputs):
            return 1e4 * super().forward(inputs)

    found = measure_adversarial(Subject(Saturated(form.module, data.signature), data), [THREAT])
    gradient = found.pictures[3]
    assert 0.0 in gradient.columns["at_white"]
    flat = read(gradient.png[gradient.columns["at_white"].index(0.0)])
    assert set(flat.ravel()) <= {127, 128}
    json.dumps([asdict(picture) for picture in found.pictures], allow_nan=False)


def test_a_radius_in_the_wrong_scale_stops_the_evaluation(form, data):
    with pytest.raises(ConfigError, match="8/255 = 0.03137 may be meant"):
        measure_adversarial(Subject(form, data), [Threat("linf", 8)])


def test_colour_noise_stays_small(form):
    inputs = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    net[1].bias.data = -net[1].weight.data.sum(1) / 2
    split = Split(inputs, net(inputs).argmax(1))
    data = Data("noise", "classification", split, split, split, tuple("abcdefghij"), (0.0, 1.0))
    found = measure_adversarial(Subject(type(form)(net, data.signature), data), [Threat("linf", 8 / 255)])
    assert len(found.pictures[0].png) == 6
    assert len(json.dumps([asdict(picture) for picture in found.pictures])) < 110_000

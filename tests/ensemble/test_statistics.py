"""Running statistics for other weights: against a pass in training mode written by hand."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import pluriform as pf
from pluriform.data.data import Split
from pluriform.ensemble.statistics import calibration_inputs, has_statistics, recalibrated, statistics_copies


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.BatchNorm1d(4),
    )


@pytest.mark.parametrize("samples", [2, 100, 128, 129, 256, 300])
def test_statistics_are_the_average_over_batches(samples):
    module = network().train()
    before = copy.deepcopy(module.state_dict())
    inputs = torch.randn(samples, 1, 4, 4)
    weights = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    random = torch.get_rng_state()
    found = recalibrated(module, weights, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in before.items())
    assert all(part.training for part in module.modules())

    parts = [part for part in inputs.split(128) if len(part) > 1]  # A lone sample has no variance.
    with torch.no_grad():
        first = [nn.functional.conv2d(part, weights["0.weight"], weights["0.bias"]) for part in parts]
        means = [part.mean((0, 2, 3)) for part in first]
        variances = [part.transpose(0, 1).flatten(1).var(1) for part in first]
        torch.testing.assert_close(found["1.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["1.running_var"], torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)
        second = []
        for part, mean in zip(first, means, strict=True):
            biased = part.transpose(0, 1).flatten(1).var(1, correction=0)
            scale, shift = (weights[f"1.{name}"][:, None, None] for name in ("weight", "bias"))
            norm = (part - mean[:, None, None]) / (biased + 1e-5).sqrt()[:, None, None] * scale + shift
            second.append(norm.relu().flatten(1) @ weights["5.weight"].T + weights["5.bias"])
    torch.testing.assert_close(
        found["6.running_mean"], torch.stack([part.mean(0) for part in second]).mean(0), rtol=1e-4, atol=1e-4
    )
    assert set(found) == {
        f"{i}.{name}" for i in (1, 6) for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_a_norm_without_running_statistics_and_other_norms_need_none():
    plain = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False))
    assert not has_statistics(plain)
    assert statistics_copies(plain, 3) == {}
    assert has_statistics(network())
    assert recalibrated(plain, {}, torch.randn(4, 2)) == {}


def test_copies_are_of_all_buffers_and_only_norms_are_set_to_training():
    module = network().eval()
    copies = statistics_copies(module, 3)
    assert set(copies) == {name for name, _ in module.named_buffers()}
    assert all(len(copy) == 3 for copy in copies.values())
    copies["1.running_mean"][0] += 1
    assert torch.equal(copies["1.running_mean"][1], module[1].running_mean)
    assert [part.training for part in module] == [False, True, False, False, False, False, True]


def test_calibration_inputs_are_a_random_part_of_the_training_split():
    data = pf.load("digits", seed=0)
    net = pf.nets.build("mlp-bn", data)
    inputs = calibration_inputs(net, data, 3)
    assert inputs.shape == (1024, *data.input_shape)
    assert torch.equal(inputs, calibration_inputs(net, data, 3))
    assert not torch.equal(inputs, calibration_inputs(net, data, 4))
    rows = {row.numpy().tobytes() for row in data.train.inputs}
    assert all(row.numpy().tobytes() in rows for row in inputs[:50])
    few = dataclasses.replace(data, train=Split(*data.train.batch(torch.arange(30))))
    assert len(calibration_inputs(net, few, 0)) == 30
    assert calibration_inputs(pf.nets.build("mlp", data), data, 0) is None

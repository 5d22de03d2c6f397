"""Draws of a generator: each from its seed alone, codes and weights of one noise vector."""

import pytest
import torch
from torch import nn

from pluriform.ensemble.heads.choice import make_head
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.hypergan.generator import DRAWN_AT_ONCE, WeightGenerator
from pluriform.ensemble.hypergan.mixer import Independent, Mixer
from pluriform.ensemble.particles.gpvi import GPVI
from pluriform.ensemble.target import layers_of

SEEDS = [11, 5, 2**62, 7, 9, 1, 3, 4, 8, 6, 10]


def made(head="full", jitter=False, mixer=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    layers = layers_of(network)
    codes = Mixer(12, len(layers), 6, 16) if mixer else Independent(len(layers), 6)
    base = dict(network.named_parameters())
    size = sum(p.numel() for p in base.values())
    return WeightGenerator(
        codes,
        make_head(head, layers, 6, 16, deviations_of(layers)),
        base,
        GPVI(12, size, 0.1, hidden=8) if jitter else None,
    ).eval()


CASES = [("full", False, True), ("chunked", False, True), ("low-rank", False, True), ("rank-one", False, False)]
CASES += [("full", True, True)]


@pytest.mark.parametrize(("head", "jitter", "mixer"), CASES)
def test_a_draw_is_its_seeds_whatever_count_order_and_companions(head, jitter, mixer):
    generator = made(head, jitter, mixer)
    random = torch.get_rng_state()
    whole = generator.draw(SEEDS)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(len(tensor) == len(SEEDS) for tensor in whole.values())
    turned = generator.draw(SEEDS[::-1])
    for i in (0, 7, 8, 10):
        alone = generator.draw([SEEDS[i]])
        few = generator.draw(SEEDS[i:])
        for name, tensor in whole.items():
            for other in (alone[name][0], few[name][0], turned[name].flip(0)[i]):
                torch.testing.assert_close(tensor[i], other, rtol=1e-6, atol=1e-6)
    names = [name for name in whole if name.endswith("weight")]
    assert all(not torch.allclose(whole[name][0], whole[name][1], atol=1e-3) for name in names)


def test_rounding_does_not_depend_on_the_count():
    """Bit for bit where a draw stands at the same place of its group."""
    generator = made()
    whole = generator.draw(SEEDS)
    for count in (1, 3, DRAWN_AT_ONCE, 10):
        assert all(torch.equal(tensor[:count], generator.draw(SEEDS[:count])[name]) for name, tensor in whole.items())


def test_flattened_and_back():
    generator = made()
    weights = generator.draw(SEEDS[:3])
    rows = generator.flattened(weights)
    assert rows.shape == (3, sum(base.numel() for base in generator.base))
    again = generator.unflattened(rows)
    assert list(again) == list(generator.names)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_jitter_adds_its_noise_to_every_weight():
    generator = made(jitter=True)
    noise = generator.noise_of([1, 2])
    assert noise.shape == (2, generator.jitter.size)
    plain = generator.flattened(generator.weights(generator.codes(noise)))
    torch.testing.assert_close(generator.flattened(generator.draws(noise).weights) - plain, 0.1 * noise)


def test_codes_of_a_draw_are_those_of_its_noise():
    generator = made()
    noise = generator.noise_of([3, 4])
    draws = generator.draws(noise)
    assert torch.equal(draws.codes, generator.codes(noise))
    assert draws.codes.shape == (2, 2, 6)
    assert torch.equal(draws.weights["0.weight"], generator.weights(draws.codes)["0.weight"])


def test_base_is_a_trainable_copy():
    generator = made("rank-one")
    assert all(base.requires_grad for base in generator.base)
    before = generator.draw([1])["2.weight"]
    with torch.no_grad():
        generator.base[2].mul_(2)
    assert not torch.equal(generator.draw([1])["2.weight"], before)


def test_draws_in_float64_are_those_of_float32_but_for_rounding():
    generator = made()
    single = generator.draw([3, 4])
    double = generator.double().draw([3, 4])
    assert all(tensor.dtype == torch.float64 for tensor in double.values())
    assert all(torch.allclose(double[name].float(), single[name], atol=1e-5) for name in single)

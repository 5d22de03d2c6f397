import torch
from torch import nn

from pluriform.ensemble.heads.chunked import ChunkedHead, chunked_count
from pluriform.ensemble.heads.full import full_count
from pluriform.ensemble.heads.initialisation import deviations_of
from pluriform.ensemble.target import layers_of


def test_weights_are_those_of_a_loop_over_chunks():
    torch.manual_seed(0)
    layers = layers_of(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 7)))
    head = ChunkedHead(layers, 8, 16, deviations_of(layers))
    assert head.chunk == 32
    base = {entry.name: torch.randn(entry.shape) for layer in layers for entry in layer.entries}
    codes = torch.randn(1, 2, 8)
    features, gates, first = head.trunk(codes)[:, 0], head.gates(), 0
    scales = iter(head.scales)
    weights = head(codes, base)
    for i, layer in enumerate(layers):
        count = -(-layer.size // 32)
        flat = torch.cat([(features[i] * gates[first + j]) @ head.map for j in range(count)])
        first += count
        for entry in layer.entries:
            own, flat = flat[: entry.size], flat[entry.size :]
            scale = next(scales) * head.units[entry.name]
            expected = base[entry.name] + scale * own.view(entry.shape)
            assert torch.allclose(weights[entry.name][0], expected, atol=1e-5)
    assert first == len(head.embeddings)


def test_chunks_of_one_layer_have_no_part_in_common():
    torch.manual_seed(0)
    layers = layers_of(nn.Linear(100, 100, bias=False))
    head = ChunkedHead(layers, 32, 64, {"weight": 1.0})
    with torch.no_grad():
        rows = head(torch.randn(2000, 1, 32), {"weight": torch.zeros(100, 100)})["weight"]
    assert head.chunk == 100  # So that a row is a chunk.
    correlations = torch.corrcoef(rows[:, :, 0].T)[~torch.eye(100, dtype=torch.bool)]
    assert abs(float(correlations.mean())) < 0.02
    # A full head has 0.22 here, by the length of the code; embeddings of 8 numbers add 1 / sqrt(8) at most.
    assert float(correlations.square().mean()) < 0.22**2 + 1 / 8 + 0.04


def test_generator_of_a_large_target_is_smaller_than_the_target():
    layers = layers_of(nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4))))
    assert sum(layer.size for layer in layers) == 4_198_400
    assert chunked_count(layers, 64, 512) < 2_000_000 < full_count(layers, 64, 512) / 1000

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from pluriform.errors import ConfigError, MemoryBudgetError, ShapeError
from pluriform.infinite.empirical import count_cost, empirical_nngp, empirical_ntk
from pluriform.infinite.empirical.cost import costs_of, numbers_of
from pluriform.infinite.empirical.layer_ntk import Sizes
from pluriform.infinite.empirical.structured import StructuredDerivatives
from pluriform.infinite.empirical.subject import subject_of

spec = importlib.util.spec_from_file_location("networks", Path(__file__).parent / "networks.py")
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)

pytestmark = pytest.mark.filterwarnings("ignore:.*padding='same' with even kernel:UserWarning")
ALGORITHMS = ("jacobian", "ntk-vp", "structured", "auto")


def brute_force(net, x1, x2):
    """One backward pass for each input and output."""

    def rows(x):
        trained = [p for p in net.parameters() if p.requires_grad]
        found = []
        for single in x:
            outputs = net(single[None])[0]
            grads = [torch.autograd.grad(o, trained, retain_graph=True, allow_unused=True) for o in outputs]
            zeros = [torch.zeros_like(p) for p in trained]
            found.append(
                torch.stack(
                    [
                        torch.cat([(z if g is None else g).flatten() for g, z in zip(row, zeros, strict=True)])
                        for row in grads
                    ]
                )
            )
        return torch.stack(found)

    return torch.einsum("nap,mbp->nmab", rows(x1), rows(x2))


@pytest.mark.parametrize("name", networks.BUILDERS)
@pytest.mark.parametrize("algorithm", ALGORITHMS[:3])
def test_every_algorithm_equals_one_backward_pass_for_each_input_and_output(name, algorithm):
    net, x1, x2 = networks.build(name)
    expected = brute_force(net, x1, x2)
    full = empirical_ntk(net, x1, x2, algorithm=algorithm)
    torch.testing.assert_close(full, expected, rtol=1e-9, atol=1e-10)
    diagonal = empirical_ntk(net, x1, x2, algorithm=algorithm, output="diagonal")
    torch.testing.assert_close(diagonal, expected.diagonal(dim1=2, dim2=3), rtol=1e-9, atol=1e-10)
    trace = empirical_ntk(net, x1, x2, algorithm=algorithm, output="trace")
    torch.testing.assert_close(trace, expected.diagonal(dim1=2, dim2=3).mean(2), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["residual", "tied"])
@pytest.mark.parametrize("algorithm", ALGORITHMS[:3])
@pytest.mark.parametrize("output", ["full", "diagonal", "trace"])
def test_a_batch_with_itself_by_triangle_equals_the_square_also_in_ragged_chunks(name, algorithm, output):
    net, x1, _ = networks.build(name)
    expected = empirical_ntk(net, x1, x1.clone(), algorithm="jacobian", output=output)
    torch.testing.assert_close(empirical_ntk(net, x1, algorithm=algorithm, output=output), expected)
    chunked = empirical_ntk(net, x1, algorithm=algorithm, output=output, chunk=3)
    torch.testing.assert_close(chunked, expected)


@pytest.mark.parametrize("output", ["full", "diagonal", "trace"])
def test_nngp_is_the_product_of_outputs(output):
    net, x1, x2 = networks.build("mlp")
    with torch.no_grad():
        full = torch.einsum("na,mb->nmab", net(x1), net(x2))
    same = full.diagonal(dim1=2, dim2=3)
    expected = {"full": full, "diagonal": same, "trace": same.mean(2)}[output]
    torch.testing.assert_close(empirical_nngp(net, x1, x2, output=output), expected)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.3), nn.BatchNorm1d(4, track_running_stats=False)])
def test_layers_that_mix_the_batch_are_refused_by_name(layer):
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    with pytest.raises(ConfigError, match=r"in 1 .*module.eval\(\)"):
        empirical_ntk(net, torch.zeros(2, 3))
    if getattr(layer, "track_running_stats", True):
        assert empirical_ntk(net.eval(), torch.zeros(2, 3)).shape == (2, 2, 2, 2)


def test_other_faults_are_said():
    net = nn.Linear(3, 2)
    with pytest.raises(ShapeError, match="equal shapes"):
        empirical_ntk(net, torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="at least one input"):
        empirical_ntk(net, torch.zeros(0, 3))
    with pytest.raises(ShapeError, match=r"outputs \(n, outputs\).*flatten"):
        empirical_ntk(nn.Conv2d(1, 2, 3), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ConfigError, match="trainable parameters"):
        empirical_ntk(net.requires_grad_(False), torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="algorithm auto, jacobian, ntk-vp, structured; got 'fast'"):
        empirical_ntk(nn.Linear(3, 2), torch.zeros(2, 3), algorithm="fast")
    with pytest.raises(ConfigError, match="output full, trace, diagonal"):
        empirical_ntk(nn.Linear(3, 2), torch.zeros(2, 3), output="sum")
    with pytest.raises(MemoryBudgetError, match="budget of at least .* MiB.*raise memory"):
        empirical_ntk(nn.Linear(3, 2), torch.zeros(2, 3), memory=8)


@pytest.mark.parametrize("output", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_small_budget_splits_inputs_and_outputs_and_changes_nothing(algorithm, output):
    net, x1, x2 = networks.build("residual")
    method = StructuredDerivatives(subject_of(net, x1), output)
    named = costs_of(method, 4, 3).algorithm if algorithm == "auto" else algorithm
    memory = 8 * numbers_of(method, named).total(1, 2)
    expected = empirical_ntk(net, x1, x2, algorithm="jacobian", output=output)
    for second, wanted in ((x2, expected), (None, empirical_ntk(net, x1, algorithm="jacobian", output=output))):
        got = empirical_ntk(net, x1, second, algorithm=algorithm, output=output, memory=memory)
        torch.testing.assert_close(got, wanted)


def test_the_counted_cost_names_the_cheapest_algorithm_and_the_order_of_each_layer():
    wide = nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 3))
    costs = count_cost(wide, torch.zeros(4, 2, 5, 5))
    assert costs.algorithm == "structured"
    assert costs.layers == {"0": "explicit", "2": "gram", "4": "gram"}
    # by hand: 1 x 1 positions, patches 576, 64 channels, 9 pairs of outputs, 4 x 4 pairs of inputs
    assert Sizes(4, 4, 3, 1, 576, 64, 1, same=True, inner=576).gram("full") == 16 * (576 + 3 * 64 * 4)
    assert Sizes(4, 4, 3, 1, 576, 64, 1, same=True, inner=576).explicit("full") == 576 * 64 * (12 + 16 * 9)
    narrow = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 200))
    assert count_cost(narrow, torch.zeros(1, 2), torch.zeros(1, 2)).algorithm == "ntk-vp"

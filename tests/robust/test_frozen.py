import torch
from torch import nn

from pluriform.graph.trace import trace
from pluriform.robust.frozen import Frozen, only_trained, trained_part
from pluriform.training.optimisation import make_optimizer
from pluriform.training.recipe import Recipe

X = torch.linspace(-1, 1, 60).view(6, 10)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    second = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(first, second, nn.Linear(8, 3))


def frozen(net: nn.Module, count: int, adapt: bool = False) -> Frozen:
    return Frozen(net, trained_part(net, trace(net.eval(), X), "2", count), adapt)


def training(net: nn.Module) -> set[str]:
    return {name for name, part in net.named_modules() if part.training and not list(part.children())}


def test_freezing_survives_train():
    net = network()
    held = frozen(net, 0)
    assert training(net) == {"2"}
    held.train()
    assert held.training
    assert training(net) == {"2"}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert torch.equal(held(X), held(X))  # No dropout.
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    held.eval()
    assert training(net) == set()
    held.train()
    assert training(net) == {"2"}


def test_adapting_touches_statistics_alone():
    net = network()
    held = frozen(net, 0, adapt=True)
    assert training(held.train()) == {"network.0.1", "network.1.1", "network.2"}
    assert torch.equal(held(X), held(X))  # Statistics follow, dropout stays off, batches decide.
    assert int(net[0][1].num_batches_tracked) == 2
    assert training(held.eval()) == set()


def test_last_blocks_are_live_with_their_norms_and_dropout():
    net = network()
    held = frozen(net, 1)
    assert training(held.train()) == {f"network.1.{place}" for place in range(4)} | {"network.2"}
    assert net[1].training
    assert not net[0].training
    assert not torch.equal(held(X), held(X))


def test_only_the_trained_part_is_in_the_optimiser():
    net = network()
    net[0][0].bias.requires_grad_(False)
    part = trained_part(net, trace(net.eval(), X), "2", 1)
    flags = [parameter.requires_grad for parameter in net.parameters()]
    with only_trained(net, part.parameters):
        held = Frozen(net, part, adapt=False)
        optimizer = make_optimizer(held, Recipe(), {"network.2": 5.0})
        groups = {group["factor"]: {id(p) for p in group["params"]} for group in optimizer.param_groups}
        assert groups == {1.0: {id(p) for p in net[1].parameters()}, 5.0: {id(p) for p in net[2].parameters()}}
        held(X).sum().backward()
        assert all((p.grad is None) == (name not in part.parameters) for name, p in net.named_parameters())
    assert flags == [parameter.requires_grad for parameter in net.parameters()]


class Shared(nn.Module):
    """Calls one layer twice, early and late."""

    def __init__(self) -> None:
        super().__init__()
        self.often, self.once, self.head = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.often(self.once(self.often(x).relu()).relu()).relu())


def test_a_layer_that_the_frozen_part_needs_stays_frozen():
    net = Shared()
    part = trained_part(net, trace(net, X), "head", 2)
    assert part.parameters == {"once.weight", "once.bias", "head.weight", "head.bias"}


def test_everything_trains_without_a_count():
    net = network()
    part = trained_part(net, trace(net, X), "2", None)
    assert part.parameters == {name for name, _ in net.named_parameters()}
    assert training(Frozen(net, part, adapt=False).train()) == {
        f"network.{name}" for name, module in net.named_modules() if not list(module.children())
    }

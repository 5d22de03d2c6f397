"""The wide network that thin ones learn from: widened and trained, or given as a saved form."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, GraphError, RunConflictError, ShapeError, explain
from pluriform.forms import load_form
from pluriform.graph.channels import ChannelGroups, channel_groups
from pluriform.graph.fingerprint import fingerprint
from pluriform.graph.flow import Role
from pluriform.graph.gather import widen as widened_alike
from pluriform.graph.graph import Graph
from pluriform.graph.layout import Layout
from pluriform.graph.ops import Op
from pluriform.graph.parameters import modes_kept
from pluriform.graph.trace import trace
from pluriform.method import FitContext, check_module
from pluriform.metrics.multiplications import multiplications
from pluriform.prediction import Predictor
from pluriform.training.feed import Feed, resident, take
from pluriform.training.initialisation import reinitialise
from pluriform.training.loop import Loop
from pluriform.training.loss import Loss
from pluriform.training.recipe import Recipe
from pluriform.training.seeds import derive_seed
from pluriform.training.step import training_step
from pluriform.training.validation import assess

__all__ = ["TrainedWide", "given", "macs_of", "read", "trained_wide", "widened", "wider"]

SHARES = (0.1, 0.9)  # Of copies, before they are made to add up to one.
NOISE = 0.01
RECORD = "wide.json"


class TrainedWide(NamedTuple):
    """A wide network and what it cost.

    Attributes:
        network: In evaluation mode, its weights without gradients.
        cost: `wide_seconds` in the training loop, `wide_sample_passes` forward and backward (both 0 for a given one),
            and `wide_macs`, the multiply-accumulates of one sample forward.
    """

    network: nn.Module
    cost: dict[str, float | int]


def widened(
    graph: Graph,
    factor: float | int,
    seed: int,
    *,
    fresh: bool = True,
    groups: list[str] | tuple[str, ...] | None = None,
    noise: float | int = NOISE,
) -> nn.Module:
    """A wide copy of a network, of the same class, depth and resolutions.

    Fresh, every layer is drawn anew by its own `reset_parameters`. Otherwise channels are copied: of every old channel
    the copies are read with unequal random shares that add up to one, so that the function is kept up to the noise, and
    copies do not stay equal while they train. (Columns of grouped convolutions keep equal shares.)

    Args:
        graph: The traced network; it stays as it is.
        factor: How many times as wide each group becomes, at least 1.
        seed: Of all draws.
        fresh: Draw the weights anew.
        groups: Names of the channel groups to widen; every free one by default.
        noise: Deviation of normal noise on the weights around copies, in units of their own deviation.

    Raises:
        GraphError: There is nothing to widen, or as for `gather`.
        ConfigError: As for `wider`.

    References:
        Chen, Goodfellow, Shlens 2016, Net2Net: Accelerating Learning via Knowledge Transfer, arXiv:1511.05641.
    """
    made = wider(graph, factor, groups)
    if fresh:
        reinitialise(made.root, seed)
    else:
        generator = torch.Generator().manual_seed(seed)
        names = [group.name for group in channel_groups(graph) if group.size != _size(made, group.name)]
        _break_ties(graph, made, names, float(noise), generator)
    return made.root


def wider(graph: Graph, factor: float | int, groups: list[str] | tuple[str, ...] | None = None) -> Graph:
    """Every free group, or those named, `factor` times as wide, the function kept; at least one of them grows.

    Args:
        graph: The traced network; it stays as it is.
        factor: At least 1.
        groups: Names of the channel groups to widen; every free one by default.

    Raises:
        GraphError: There is nothing to widen, or as for `gather`.
        ConfigError: The factor is below 1, or adds no channel to any group, or only to a part of a norm's.
    """
    found, where = channel_groups(graph), f"widening of {type(graph.root).__name__}"
    free = [group for group in found if not group.fixed and (groups is None or group.name in groups)]
    if not free and not groups:
        reasons = "; ".join(f"{group.name}: {group.reason}" for group in found[:3])
        unknown = (
            "the code could not be followed" if any(node.op is Op.OPAQUE for node in graph.nodes) else "none at all"
        )
        got, remedy = f"only fixed ones ({reasons or unknown})", "let the code take lengths from x.shape"
        expected = "at least one group of channels that can be widened"
        raise GraphError(explain(expected, got, where, f"{remedy}, or pass a trained wide network"))
    if free and all(round(group.size * factor) == group.size for group in free) and factor > 1:
        most = max(group.size for group in free)
        expected, got = "a factor that adds a channel to some group", f"{factor} for groups of at most {most} channels"
        raise ConfigError(explain(expected, got, where, "use widen=2"))
    try:
        return widened_alike(graph, factor, groups)
    except GraphError as error:
        if float(factor).is_integer() or "statistics of the norm" not in str(error):
            raise
        expected, got = "a factor that copies all channels of a norm equally often", f"{factor}"
        raise ConfigError(explain(expected, got, where, "use a whole number such as 2")) from error


def trained_wide(
    module: nn.Module,
    data: Data,
    context: FitContext,
    *,
    widen: float | int,
    wide: str | None,
    recipe: Recipe,
    groups: list[str] | tuple[str, ...] | None = None,
) -> TrainedWide:
    """The wide network of a fit: freshly drawn and trained, or the given one.

    Its training is resumed from `checkpoint/wide.safetensors` of the run.

    Args:
        module: The thin network; it stays as it is.
        data: What is learned.
        context: Seed, run and device of the fit.
        widen: Factor of all free channel groups.
        wide: Folder of a saved form to take instead.
        recipe: How the wide network is trained.
        groups: Names of the channel groups to widen; every free one by default.

    Raises:
        GraphError: There is nothing to widen.
        ConfigError: The factor is not above 1.
        ShapeError: The given network takes other inputs or has another output width.
        RunError: There is no form in the folder.
        RunConflictError: An earlier sitting of the run had another given network.
    """
    if wide is not None:
        network = given(wide, module, data, context.device)
        _remember(network, wide, context)
        seconds, passes = 0.0, 0
    else:
        if widen <= 1:
            remedy = "use widen=2, or pass a trained wide form"
            raise ConfigError(explain("a factor above 1", f"widen={widen}", "wide network", remedy))
        seed = derive_seed(context.seed, "wide")
        network = widened(read(module, data), widen, seed, groups=groups).to(context.device)
        found = _loop(network, data, context, recipe).run()
        seconds, passes = found.training_seconds, found.sample_passes
    network.eval().requires_grad_(False)
    sample, _ = take(data.train, torch.arange(1))
    macs = macs_of(network, sample.to(context.device))
    return TrainedWide(network, {"wide_seconds": seconds, "wide_sample_passes": passes, "wide_macs": macs})


def read(network: nn.Module, data: Data) -> Graph:
    """The graph of a network in evaluation mode, on two samples; every mode comes back."""
    sample, _ = data.train.batch(torch.arange(min(2, len(data.train))))
    tensor: Any = next(network.parameters(), sample)
    with modes_kept(network):
        return trace(network.eval(), sample.to(tensor.device))


@torch.no_grad()
def macs_of(network: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulates of matrix products and convolutions in one forward pass over `inputs`."""
    with modes_kept(network):
        return multiplications(lambda: network.eval()(inputs))


def _loop(network: nn.Module, data: Data, context: FitContext, recipe: Recipe) -> Loop:
    seed = derive_seed(context.seed, "wide")
    feed = Feed(data, recipe.batch_size, seed, recipe.augmentation, context.device)
    checked, epochs = resident(data.validation, context.device), recipe.epochs_for(len(data.train))
    loss, plain = Loss.of(recipe, data, context.device), Loss(data.task)
    return Loop(
        network,
        training_step(network, loss, feed, recipe, epochs),
        feed,
        recipe,
        seed=seed,
        epochs=epochs,
        run=context.run,
        validate=(lambda: assess(network, checked, plain, context.device)) if len(checked) else None,
        label="wide",
    )


def given(path: str, module: nn.Module, data: Data, device: torch.device) -> nn.Module:
    """The wide network of a saved form, on the device.

    Args:
        path: Folder of the form.
        module: The thin network.
        data: What is learned.
        device: Where.

    Raises:
        ShapeError: The form takes other inputs or has another output width.
        RunError: There is no form in the folder.
    """
    form = load_form(path, module=module, device=device).eval()
    if isinstance(form, Predictor):
        known = form.signature
        got = (known.task, known.input_shape, known.outputs)
        expected = (data.task, data.input_shape, data.outputs)
        if got != expected:
            words = "task {}, inputs of shape {}, {} outputs"
            remedy = f"pass a form that was fitted on {data.name}"
            raise ShapeError(explain(words.format(*expected), words.format(*got), f"wide form {path}", remedy))
    network = _network_of(form, data, device)
    check_module(network, data)
    return network.to(device)


@torch.no_grad()
def _network_of(form: nn.Module, data: Data, device: torch.device) -> nn.Module:
    """The one network whose outputs are those of the form, or else the form itself."""
    network = getattr(form, "module", None)
    if not isinstance(form, Predictor) or not isinstance(network, nn.Module):
        return form
    sample = take(data.train, torch.arange(min(2, len(data.train))))[0].to(device)
    own, outputs = network.eval()(sample), form(sample)
    return network if own.shape == outputs.shape and torch.allclose(own, outputs, atol=1e-5) else form


def _remember(network: nn.Module, path: str, context: FitContext) -> None:
    """Write into the run which network was given, or hold it against what is written there."""
    if context.run is None:
        return
    mark = fingerprint(network)
    if not context.run.has(RECORD):
        context.run.write_json(RECORD, {"fingerprint": mark})
    elif (stored := context.run.read_json(RECORD)["fingerprint"]) != mark:
        remedy = "put the form back, or name another run folder"
        raise RunConflictError(explain(f"the wide network {stored} of this run", f"{mark}", path, remedy))


def _size(graph: Graph, name: str) -> int:
    return next(group.size for group in ChannelGroups.of(graph).groups if group.name == name)


@torch.no_grad()
def _break_ties(graph: Graph, made: Graph, names: list[str], noise: float, generator: torch.Generator) -> None:
    """Unequal shares for the copies of a channel, and noise on all weights around them, in place."""
    found = ChannelGroups.of(made)
    factors = {}
    for name in names:
        old, new = _size(graph, name), _size(made, name)
        owner = torch.arange(new) * old // new
        drawn = torch.empty(new, dtype=torch.float64).uniform_(*SHARES, generator=generator)
        total = torch.zeros(old, dtype=torch.float64).index_add(0, owner, drawn)
        factors[found.sets[name]] = drawn / total[owner] * torch.bincount(owner)[owner]
    done: set[tuple[int, int]] = set()
    noisy: dict[int, Tensor] = {}
    for slot in found.flow.slots:
        layout = found.flow.ties.resolve(slot.layout)
        if (id(slot.weight), slot.axis) in done or not any(span.channels in factors for span in layout):
            continue
        done.add((id(slot.weight), slot.axis))
        if slot.weight.dim() > 1:
            noisy[id(slot.weight)] = slot.weight
        if slot.role is Role.CONSUMER:
            along = _along(layout, factors).to(slot.weight)
            slot.weight.mul_(along.reshape(-1, *[1] * (slot.weight.dim() - slot.axis - 1)))
    for weight in noisy.values():
        draw = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(draw, alpha=noise * float(weight.std()))


def _along(layout: Layout, factors: dict[int, Tensor]) -> Tensor:
    """The factor of each position of an axis."""
    return torch.cat(
        [
            factors.get(span.channels, torch.ones(span.size, dtype=torch.float64)).repeat_interleave(span.repeat)
            for span in layout
        ]
    )

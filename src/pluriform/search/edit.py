"""Making planned changes on a network with weights: new layers, exchanged tensors, rewired code."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pluriform.graph.graph import Node, Shape
from pluriform.graph.ops import Op
from pluriform.search.morphism import Change, Insertion, NewLayer, WeightEdit
from pluriform.search.outline import Outline

__all__ = ["write"]

LENGTHS = frozenset({"view", "reshape", "expand"})
NORM_STARTS = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


def write(network: fx.GraphModule, names: dict[str, str], outline: Outline, change: Change, seed: int) -> None:
    """Change a network and its code in place.

    Args:
        network: That `outline` describes, a copy of its own.
        names: Name in the code of `network`, by name of the node; new nodes are added.
        outline: Before the change.
        change: Planned on `outline`.
        seed: Of the new weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for edit in change.weights:
        _exchange(network, edit, generator)
    for setting in change.settings:
        setattr(network.get_submodule(setting.path), setting.attribute, setting.value)
    code = {node.name: node for node in network.graph.nodes}
    for name, shape in change.shapes.items():
        if outline[name].module is None:
            _spell_lengths(code[names[name]], outline[name].shape, shape)
    if change.insertion is not None:
        place = outline[change.insertion.after]
        device = _device(network, outline)
        for layer in change.layers:
            module = _begun(layer, place.dtype or torch.get_default_dtype(), device, generator)
            network.add_submodule(layer.path, module.train(network.training))
        _insert(network.graph, change.insertion, names, code)


def _exchange(network: nn.Module, edit: WeightEdit, generator: torch.Generator) -> None:
    """Put a new tensor in all places of the old one; gradients and hooks of the old are left behind."""
    old: Tensor = operator.attrgetter(edit.addresses[0])(network)
    made = edit.make(old.detach(), generator).to(old).contiguous()
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        made = made.contiguous(memory_format=torch.channels_last)
    new = nn.Parameter(made, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else made
    for address in edit.addresses:
        path, _, name = address.rpartition(".")
        owner = network.get_submodule(path)
        if name in owner._parameters:
            owner._parameters[name] = new  # type: ignore[assignment]
        elif name in owner._buffers:
            owner._buffers[name] = new
        else:
            setattr(owner, name, new)


def _insert(graph: fx.Graph, insertion: Insertion, names: dict[str, str], code: Mapping[str, fx.Node]) -> None:
    after = cursor = code[names[insertion.after]]
    made: dict[str, fx.Node] = {}
    for node in insertion.nodes:
        inputs = [made[name] if name in made else code[names[name]] for name in node.inputs]
        with graph.inserting_after(cursor):
            cursor = made[node.name] = _code(graph, node, inputs)
        names[node.name] = cursor.name
    after.replace_all_uses_with(
        cursor, delete_user_cb=lambda user: user not in made.values() and not _asks_for_size(user)
    )


def _code(graph: fx.Graph, node: Node, inputs: list[fx.Node]) -> fx.Node:
    if node.module is not None:
        return graph.create_node("call_module", node.module, tuple(inputs), {}, node.module.replace(".", "_"))
    if node.op is Op.CONCAT:
        return graph.create_node("call_function", torch.cat, (inputs, node.attributes["dim"]), {}, node.name)
    return graph.create_node("call_function", operator.add, tuple(inputs), {}, node.name)


def _asks_for_size(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("size", "dim", "numel")


def _spell_lengths(node: fx.Node, old: Shape, new: Shape) -> None:
    """Exchange lengths that the code of a network has written out: `x.view(-1, 400)`, `x.split(16, 1)`."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    args = list(node.args)
    if name in LENGTHS:
        given = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
        if len(given) == len(new):
            lengths = _lengths(given, old, new)
            node.args = (args[0], lengths) if given is args[1] else (args[0], *lengths)
        for key, value in node.kwargs.items():
            if isinstance(value, tuple | list) and len(value) == len(new):
                node.update_kwarg(key, _lengths(value, old, new))
    elif name == "unflatten" and len(args) == 3 and isinstance(args[1], int) and isinstance(args[2], tuple | list):
        first = args[1] % (len(new) + 1 - len(args[2]))
        stop = first + len(args[2])
        pairs = zip(args[2], old[first:stop], new[first:stop], strict=True)
        node.update_arg(2, [_length(*triple) for triple in pairs])
    elif name == "split":
        _spell_parts(node, old, new)


def _lengths(given: Any, old: Shape, new: Shape) -> list[Any]:
    """Lengths of a reshape; one that is computed from others, like `c // 2`, is left to torch."""
    lengths = [_length(item, *pair) for item, *pair in zip(given, old, new, strict=True)]
    computed = [axis for axis, item in enumerate(given) if isinstance(item, fx.Node) and item.target != "size"]
    if computed and -1 not in [item for item in given if isinstance(item, int)]:
        for axis in computed:
            lengths[axis] = new[axis]
        lengths[computed[-1]] = -1
    return lengths


def _spell_parts(node: fx.Node, old: Shape, new: Shape) -> None:
    axis = next(place for place, (a, b) in enumerate(zip(old[0], new[0], strict=True)) if a != b)
    key = next((each for each in ("split_size_or_sections", "split_size") if each in node.kwargs), None)
    size: Any = node.kwargs[key] if key else node.args[1]
    changed: Any = size
    if isinstance(size, int):
        changed = _length(size, old[0][axis], new[0][axis])
    elif isinstance(size, tuple | list) and len(size) == len(new):
        changed = [_length(each, a[axis], b[axis]) for each, a, b in zip(size, old, new, strict=True)]
    if key:
        node.update_kwarg(key, changed)
    else:
        node.update_arg(1, changed)


def _length(item: Any, old: int, new: int) -> Any:
    return new if isinstance(item, int) and item == old else item


def _device(network: nn.Module, outline: Outline) -> torch.device:
    tensors = [*network.parameters(), *network.buffers(), *(x for x in outline.examples if isinstance(x, Tensor))]
    return tensors[0].device if tensors else torch.device("cpu")


def _begun(layer: NewLayer, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> nn.Module:
    """A layer with its first weights."""
    module = type(layer.module).__new__(type(layer.module))
    module.__dict__.update(layer.module.__dict__)
    module._parameters, module._buffers = dict(layer.module._parameters), dict(layer.module._buffers)
    for name, blank in (*layer.module._parameters.items(), *layer.module._buffers.items()):
        if blank is None:
            continue
        kind = dtype if blank.is_floating_point() else blank.dtype
        numbers = _numbers(layer, name, blank, generator).to(device=device, dtype=kind)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(numbers)
        else:
            module._buffers[name] = numbers
    return module


def _numbers(layer: NewLayer, name: str, blank: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in +-1/sqrt(fan in) where drawn, as layers of torch.nn begin; else zeros, ones or the identity."""
    weight = getattr(layer.module, "weight", None)
    if not isinstance(layer.module, nn.Linear | nn.modules.conv._ConvNd) or weight is None:
        return torch.full(blank.shape, NORM_STARTS.get(name, 0), dtype=torch.float64)
    if layer.weights == "zero" or (layer.weights == "identity" and name == "bias"):
        return torch.zeros(blank.shape, dtype=torch.float64)
    if layer.weights == "identity":
        made = torch.zeros(blank.shape, dtype=torch.float64)
        centre = tuple(length // 2 for length in blank.shape[2:])
        channels = torch.arange(blank.shape[0])
        made[(channels, channels, *centre)] = 1.0
        return made
    bound = (weight.numel() / weight.shape[0]) ** -0.5
    return (torch.rand(blank.shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound

"""`trace`: an ordinary module as a `Graph`."""

from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from pluriform.errors import GraphError, ShapeError, explain
from pluriform.graph.attributes import Meaning, module_facts, normalise
from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.inplace import writes_in_place
from pluriform.graph.ops import Op
from pluriform.graph.parameters import functional_call
from pluriform.graph.proxy import value_of
from pluriform.graph.spelling import function_spelling, method_spelling, module_spelling
from pluriform.graph.tracer import ShapeTracer, TraceFailure
from pluriform.graph.unchanged import left_as_it_was

__all__ = ["trace"]


WITH_NODE = ("call_module", "output")
"""Kinds of code that are a node whatever they give; others, such as lengths, only where they give tensors."""


def trace(module: nn.Module, example: Any) -> Graph:
    """Read a module as a graph, without running its numbers and without changing it.

    Python that asks for shapes is answered from the example; the batch size stays free. A submodule that cannot be
    followed (control flow on values, foreign calls) becomes one opaque node, the smallest such submodule; if that is
    the module itself, the graph is a single opaque node.

    Args:
        module: Any module, in the mode (training or evaluation) that the graph shall describe.
        example: One input batch, shape `(batch, ...)`, or a tuple of the positional inputs. Only shapes, types and
            devices are read.

    Returns:
        The graph; `graph.module` runs and shares the parameters of `module`.

    Raises:
        ShapeError: The module does not take these inputs.
        GraphError: A submodule has a name that code cannot write.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(2, 4))
        >>> [node.op.value for node in graph.nodes]
        ['input', 'linear', 'activation', 'output']
    """
    examples = tuple(example) if isinstance(example, tuple | list) else (example,)
    _check_initialised(module)
    opaque: frozenset[str] = frozenset()
    numbers = False
    while True:
        tracer = ShapeTracer(module, examples, opaque, numbers)
        try:
            with left_as_it_was(module):
                return _read(module, tracer.follow(module), examples, "")
        except TraceFailure as failure:
            if failure.path not in opaque and failure.path:
                opaque |= {failure.path}
            elif not numbers:
                numbers = True
            else:
                return _opaque_root(module, examples)


def _check_initialised(module: nn.Module) -> None:
    for name, parameter in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(parameter, UninitializedParameter | UninitializedBuffer):
            raise ShapeError(
                explain(
                    "parameters with shapes",
                    f"{name}, of a lazy module that has not run yet",
                    f"trace of {type(module).__name__}",
                    "call the network once on a batch before tracing it",
                )
            )


def _opaque_root(module: nn.Module, examples: tuple[Any, ...]) -> Graph:
    """One opaque node, run once with numbers for its shape."""
    holder = nn.Module()
    holder.add_module("network", module)
    graph = fx.Graph()
    inputs = [graph.placeholder(f"input_{place}") for place in range(len(examples))]
    node = graph.call_module("network", tuple(inputs))
    graph.output(node)
    modes = [part.training for part in module.modules()]
    state = {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            value = functional_call(module, state, examples)
    except Exception as error:
        raise ShapeError(
            explain(
                "inputs that the network takes",
                f"{', '.join(str(tuple(item.shape)) for item in examples if isinstance(item, Tensor))}, which raised "
                f"{type(error).__name__}: {error}",
                f"trace of {type(module).__name__}",
                "pass an example batch like the real inputs",
            )
        ) from error
    finally:
        for part, mode in zip(module.modules(), modes, strict=True):
            part.training = mode
    for place, item in zip(inputs, examples, strict=True):
        place.meta.update(value=item, source=None)
    node.meta.update(value=value, source=None)
    return _read(holder, graph, examples, "network")


def _read(root: nn.Module, graph: fx.Graph, examples: tuple[Any, ...], inside: str) -> Graph:
    """The records of a traced fx graph."""
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or writes_in_place(node, root))
    try:
        traced = fx.GraphModule(root, graph, type(root).__name__)
    except SyntaxError as error:
        raise _unwritable(root, graph) from error
    traced.training = root.training
    kept = [node for node in traced.graph.nodes if node.op in WITH_NODE or _is_tensor(node.meta["value"])]
    names = _names(kept)
    calls: dict[str, int] = {}
    for node in kept:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    nodes = tuple(_record(node, names, traced, calls) for node in kept)
    for node in traced.graph.nodes:
        node.meta = {"source": node.meta.get("source")}
    original = root.get_submodule(inside) if inside else root
    blank = tuple(item.new_zeros(()).expand(item.shape) if isinstance(item, Tensor) else item for item in examples)
    return Graph(nodes, original, traced, blank, {names[node]: node.name for node in kept})


def _unwritable(root: nn.Module, graph: fx.Graph) -> GraphError:
    """A module or parameter with a name such as `in`: traced code, which is Python, cannot read it."""
    paths = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    names = [path for path in dict.fromkeys(paths) if any(map(iskeyword, path.split(".")))]
    expected = "submodules and parameters whose names are no keywords of Python"
    where = f"trace of {type(root).__name__}"
    return GraphError(explain(expected, ", ".join(names), where, "give them other names"))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or any(_is_tensor(item) for item in _parts(value))


def _names(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """Dotted paths for module calls, else the names of the code; each once."""
    names: dict[fx.Node, str] = {}
    for node in nodes:
        base = str(node.target) if node.op in ("call_module", "get_attr") else node.name
        count = sum(name.partition("@")[0] == base for name in names.values())
        names[node] = f"{base}@{count}" if count else base
    return names


def _record(node: fx.Node, names: Mapping[fx.Node, str], traced: fx.GraphModule, calls: Mapping[str, int]) -> Node:
    value = (
        node.args[0].meta["value"] if node.op == "output" and isinstance(node.args[0], fx.Node) else node.meta["value"]
    )
    if node.op == "output" and not isinstance(node.args[0], fx.Node):
        value = value_of(node.args[0])
    op, attributes = _meaning(node, traced)
    return Node(
        name=names[node],
        op=op,
        inputs=tuple(names[item] for item in _arguments(node) if item in names),
        shape=_shape(value),
        dtype=value.dtype if isinstance(value, Tensor) else None,
        module=str(node.target) if node.op == "call_module" else None,
        attributes=attributes,
        source=node.meta.get("source"),
        calls=calls.get(str(node.target), 1) if node.op == "call_module" else 1,
    )


def _arguments(node: fx.Node) -> list[fx.Node]:
    """Nodes among the arguments, in order, repeats kept."""
    found: list[fx.Node] = []
    map_arg((node.args, node.kwargs), lambda item: found.append(item) or item)
    return found


def _shape(value: Any) -> Shape:
    if isinstance(value, Tensor):
        return tuple(int(length) for length in value.shape)
    return tuple(_shape(item) for item in _parts(value))


def _parts(value: Any) -> list[Any]:
    """What a container holds, in order."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []


def _meaning(node: fx.Node, traced: fx.GraphModule) -> Meaning:
    if node.op in ("placeholder", "output"):
        return (Op.INPUT if node.op == "placeholder" else Op.OUTPUT), {}
    if node.op == "get_attr":
        return Op.PARAMETER, {"path": str(node.target)}
    value = node.meta["value"]
    args, kwargs = value_of(node.args), value_of(node.kwargs)
    first = next((item.meta["value"] for item in _arguments(node)), None)
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        spelling = None if module._forward_hooks or module._forward_pre_hooks else module_spelling(module)
        raw = None if spelling is None else module_facts(module, spelling)
    else:
        spelling = function_spelling(node.target) if node.op == "call_function" else method_spelling(str(node.target))  # type: ignore[arg-type]
        raw = None if spelling is None else spelling.bind(args, kwargs)
    if spelling is not None and raw is not None:
        try:
            return normalise(spelling, raw, value, first)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            pass  # a spelling that torch takes and the rule does not know: shapes are all that is told
    called = type(traced.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    return Op.OPAQUE, {"function": getattr(called, "__name__", str(called))}

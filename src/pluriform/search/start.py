"""`morphable`: the user's network as a graph that can be morphed: pure, and free of the mode it was traced in."""

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pluriform.encoding import encode
from pluriform.errors import GraphError, UnsupportedOpError, explain
from pluriform.graph.graph import Graph, Node, Shape
from pluriform.graph.inplace import writes_in_place
from pluriform.graph.ops import Op
from pluriform.graph.rewrite import code_node, retrace
from pluriform.graph.trace import trace
from pluriform.search.moves import legal_moves
from pluriform.search.outline import Outline
from pluriform.search.widen import widths_of

__all__ = ["check_storable", "morphable"]

DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def morphable(module: nn.Module, example: Any) -> Graph:
    """A copy of a network as a plain module that can be morphed again and again.

    Operations that write into their input become pure ones, since a new skip may read that input later; functional
    dropout that follows the mode becomes a layer, so that the mode can change after tracing.

    Args:
        module: Any module; left as it is.
        example: One input batch, or a tuple of inputs, as for `trace`.

    Returns:
        The graph of a copy; `graph.module` computes the same as `module`, in both modes.

    Raises:
        UnsupportedOpError: The network could not be read, or an operation writes into its input in a way that has no
            pure form; names the node and its line.
        GraphError: The network computes something else in training mode than in evaluation mode, the copy computes
            something else than the network, or no move is legal.
    """
    own = copy.deepcopy(module)
    modes = {part: part.training for part in own.modules()}
    training, evaluating = trace(own.train(), example), trace(own.eval(), example)
    for part, mode in modes.items():
        part.training = mode
    _check_readable(evaluating)
    _check_modes(training, evaluating)
    edited = copy.deepcopy(evaluating.module)
    edited.training = module.training
    layers = _follow_mode(edited, training, evaluating)
    for node in evaluating.nodes:
        if node.name not in layers:
            _purify(edited, code_node(edited, evaluating, node.name), node)
    edited.recompile()
    graph = retrace(edited, evaluating, f"reading {type(module).__name__}")
    _check_copy(own.eval(), copy.deepcopy(graph.module).eval(), example)
    _check_moves(graph, type(module).__name__)
    return graph


def check_storable(graph: Graph, name: str) -> None:
    """Refuse, before a search and not after it, a network that a run could not keep.

    Args:
        graph: Of `morphable`.
        name: Of the network.

    Raises:
        UnsupportedOpError: It calls a function that a stored form cannot name; names the function and its line.
    """
    for code in graph.module.graph.nodes:
        try:
            encode(code.target)
        except TypeError as error:
            line = code.meta.get("source") or "a line unknown"
            got = f"{getattr(code.target, '__name__', code.target)} ({code.name}, {line})"
            remedy = "use a method of the tensor (x.relu()), put it into a module of its own, or search without a run"
            where = f"search from {name}"
            raise UnsupportedOpError(explain("functions that a stored network can name", got, where, remedy)) from error


def _check_copy(own: nn.Module, read: nn.Module, example: Any) -> None:
    """Refuse a network that was read as another one; those that draw numbers in evaluation mode are not compared."""
    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, again, copied = own(*inputs), own(*inputs), read(*inputs)
    if not isinstance(first, Tensor) or not torch.allclose(first, again, equal_nan=True):
        return
    if not torch.allclose(first, copied, rtol=1e-3, atol=1e-5 * float(first.abs().max()), equal_nan=True):
        got = f"outputs that differ by up to {float((first - copied).abs().max()):.3g}"
        remedy = "write powers of negative numbers and calls of other libraries with functions of torch"
        where = f"search from {type(own).__name__}"
        raise GraphError(explain("a copy that computes what the network computes", got, where, remedy))


def _check_moves(graph: Graph, name: str) -> None:
    """Refuse a network in which no move is legal."""
    outline = Outline.of(graph)
    if legal_moves(outline):
        return
    reasons = [f"{outline[node]}: {why}" for (node, _), why in widths_of(outline).items() if isinstance(why, str)]
    layers = [str(node) for node in graph.nodes if node.op not in (Op.INPUT, Op.OUTPUT)]
    got = "; ".join(reasons[:3] or layers[:3] or ["a network without layers"])
    remedy = "start from a network with at least one hidden layer of torch.nn"
    raise GraphError(explain("a layer that can be widened, deepened or joined to another", got, name, remedy))


def _check_readable(graph: Graph) -> None:
    layers = [node for node in graph.nodes if node.op not in (Op.INPUT, Op.OUTPUT)]
    opaque = [node for node in layers if node.op is Op.OPAQUE]
    if layers and len(opaque) == len(layers):
        raise UnsupportedOpError(
            explain(
                "a network whose layers can be read",
                f"{opaque[0]}, a black box",
                f"search from {type(graph.root).__name__}",
                "write its forward function without control flow on values, or call torch.nn layers in it",
            )
        )


def _check_modes(training: Graph, evaluating: Graph) -> None:
    """Refuse networks whose code differs between the modes in more than the mode of their layers."""
    for one, other in zip(training.nodes, evaluating.nodes, strict=False):
        if (one.name, one.op, one.inputs, _tensor(one)) != (other.name, other.op, other.inputs, _tensor(other)):
            raise _two_networks(one, training)
        if one.module is None and one.op is not Op.DROPOUT and dict(one.attributes) != dict(other.attributes):
            raise _two_networks(one, training)
    if len(training) != len(evaluating):
        raise _two_networks(max(training, evaluating, key=len).output, training)
    for node in training.nodes:
        if node.module is None and node.op not in (Op.INPUT, Op.OUTPUT, Op.PARAMETER, Op.DROPOUT):
            one, other = training.fx_node(node.name), evaluating.fx_node(node.name)
            if repr((one.args, one.kwargs)) != repr((other.args, other.kwargs)):
                raise _two_networks(node, training)


def _tensor(node: Node) -> Shape | None:
    """The shape of a node with one output; of several, a layer may leave some out (weights of attention)."""
    return None if node.module and any(isinstance(length, tuple) for length in node.shape) else node.shape


def _two_networks(node: Node, graph: Graph) -> GraphError:
    return GraphError(
        explain(
            "one code for training and evaluation mode",
            f"{node}, which differs between them",
            f"search from {type(graph.root).__name__}",
            "put what depends on self.training into a layer of torch.nn, such as nn.Dropout or nn.BatchNorm2d",
        )
    )


def _follow_mode(edited: fx.GraphModule, training: Graph, evaluating: Graph) -> set[str]:
    """Functional dropout as layers; the names of the nodes that were it."""
    changed = set()
    for one, other in zip(training.nodes, evaluating.nodes, strict=True):
        if one.op is not Op.DROPOUT or one.module is not None or one.attributes == other.attributes:
            continue
        code = code_node(edited, evaluating, other.name)
        path = f"{code.name}_layer"
        edited.add_submodule(path, DROPOUTS[code.target](one.attributes["p"]).train(edited.training))  # type: ignore[index]
        with edited.graph.inserting_before(code):
            new = edited.graph.call_module(path, (code.args[0] if code.args else code.kwargs["input"],))
        new.meta["source"] = code.meta.get("source")
        code.replace_all_uses_with(new)
        edited.graph.erase_node(code)
        changed.add(other.name)
    return changed


def _purify(edited: fx.GraphModule, code: fx.Node, node: Node) -> None:
    """The same operation without writing into its input."""
    if "out" in code.kwargs and code.kwargs["out"] is None:
        code.kwargs = {name: value for name, value in code.kwargs.items() if name != "out"}
    if not writes_in_place(code, edited):
        return
    if code.op == "call_module":
        edited.get_submodule(str(code.target)).inplace = False  # type: ignore[assignment]
    elif code.kwargs.get("inplace") is True:
        code.update_kwarg("inplace", False)
    else:
        pure = _pure_target(code)
        if pure is None:
            raise UnsupportedOpError(
                explain(
                    "operations that leave their inputs as they are",
                    str(node),
                    "search",
                    "write it so that it gives a new tensor (torch.where, torch.cat)",
                )
            )
        code.target = pure


def _pure_target(code: fx.Node) -> Any:
    """The method or function of the same name without the underscore, or of the operator without the i; or None."""
    name = str(code.target) if code.op == "call_method" else getattr(code.target, "__name__", "")
    if code.op == "call_method":
        pure = name.removesuffix("_")
        return pure if pure != name and hasattr(torch.Tensor, pure) else None
    if name.endswith("_") and "out" not in code.kwargs:
        places = [place for place in (F, torch) if callable(getattr(place, name[:-1], None))]
        return getattr(places[0], name[:-1]) if places else None
    return getattr(operator, name[1:]) if name in ("iadd", "isub", "imul", "itruediv", "ipow", "imatmul") else None

"""A network as Python that a person can own: a class with readable names that needs nothing but torch.

`readable` gives a network flat names by kind and number (`conv1`, `norm1`, `linear2`); `python_source` writes the
class, whose `state_dict` has the same names. What is written is run, loaded and compared before it is handed out.
"""

import builtins
import copy
import hashlib
import inspect
import keyword
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from pluriform.errors import UnsupportedOpError, explain

__all__ = ["python_source", "readable"]

KINDS: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("conv", nn.modules.conv._ConvNd),
    ("linear", nn.Linear),
    ("norm", (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)),
    ("pool", (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)),
    ("pool", (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)),
    ("dropout", nn.modules.dropout._DropoutNd),
    ("attention", nn.MultiheadAttention),
)
OPERATORS = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.matmul: "@"}
OPERATORS |= {operator.floordiv: "//", operator.pow: "**", operator.mod: "%"}
OPERATORS |= {operator.gt: ">", operator.ge: ">=", operator.lt: "<", operator.le: "<=", operator.eq: "=="}
OPERATORS |= {operator.ne: "!=", operator.and_: "&", operator.or_: "|", operator.xor: "^"}
UNARY = {operator.neg: "-", operator.invert: "~"}
SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "bias": lambda layer: _has_bias(layer),
    "add_bias_kv": lambda layer: layer.bias_k is not None,
    "device": lambda _: None,
    "dtype": lambda layer: _foreign_dtype(layer),
}
"""Arguments of layers that they do not keep under their own names."""


def readable(network: fx.GraphModule) -> fx.GraphModule:
    """The same network with flat names by kind and number, in the order of the computation.

    Args:
        network: Left as it is; weights are copied.
    """
    source, root, code = copy.deepcopy(network), nn.Module(), fx.Graph()
    names: dict[str, str] = {}
    made: dict[fx.Node, fx.Node] = {}
    for node in source.graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target not in names:
            names[node.target] = _place(
                root, operator.attrgetter(node.target)(source), names.values(), source, node.target
            )
        made[node] = code.node_copy(node, lambda old: made[old])
        if node.target in names and node.op in ("call_module", "get_attr"):
            made[node].target = names[node.target]
    renamed = fx.GraphModule(root, code, "Network")
    renamed.train(network.training)
    return renamed


def _place(root: nn.Module, part: Any, taken: Any, source: nn.Module, path: str) -> str:
    """Put a layer, parameter or buffer under a new name."""
    name = _fresh(_kind(part), {*taken})
    if isinstance(part, nn.Parameter):
        root.register_parameter(name, part)
    elif isinstance(part, Tensor):
        owner, _, own = path.rpartition(".")
        root.register_buffer(name, part, persistent=own not in source.get_submodule(owner)._non_persistent_buffers_set)
    else:
        root.add_module(name, part)
    return name


def _kind(part: Any) -> str:
    if isinstance(part, nn.Parameter):
        return "weight"
    if isinstance(part, Tensor):
        return "constant"
    found = next((name for name, types in KINDS if isinstance(part, types)), type(part).__name__.lower())
    return f"{found}_" if keyword.iskeyword(found) else found


def _fresh(stem: str, taken: set[str]) -> str:
    return next(name for number in range(1, len(taken) + 2) if (name := f"{stem}{number}") not in taken)


def python_source(network: fx.GraphModule, title: str = "A network found by search.", name: str = "Network") -> str:
    """The source of a file that defines the class `name`; it needs only torch.

        network = Network()
        network.load_state_dict(state_dict)

    Args:
        network: Of `readable`.
        title: First line of the file.
        name: Of the class.

    Raises:
        UnsupportedOpError: A layer or a function that cannot be written down; names it.
    """
    layers = [f"self.{path} = {_constructed(child, path)}" for path, child in network.named_children()]
    layers += [_registered(path, tensor, network) for path, tensor in _own_tensors(network).items()]
    layers += _shared(network)
    inputs, lines = _forward(network.graph)
    body = [
        f'"""{title}"""',
        "",
        *_imports(network.graph),
        "",
        "",
        f"class {name}(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        *(f"        {line}" for line in layers),
        "",
        f"    def forward(self, {', '.join(inputs)}):",
        *(f"        {line}" for line in lines),
    ]
    source = "\n".join(body) + "\n"
    _check(source, name, network)
    return source


def _imports(code: fx.Graph) -> list[str]:
    """Other modules of the standard library whose functions are called."""
    homes = {getattr(node.target, "__module__", "") for node in code.nodes if node.op == "call_function"}
    return [*(["import math", ""] if "math" in homes else []), "import torch", "from torch import nn"]


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**network._parameters, **network._buffers}  # type: ignore[dict-item]


def _registered(path: str, tensor: Tensor, network: nn.Module) -> str:
    """A parameter, or a buffer; numbers that no state dictionary holds are written out."""
    kind = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    blank = f"torch.zeros({tuple(tensor.shape)}{kind})"
    if isinstance(tensor, nn.Parameter):
        return f"self.{path} = nn.Parameter({blank}{'' if tensor.requires_grad else ', requires_grad=False'})"
    if path not in network._non_persistent_buffers_set:
        return f'self.register_buffer("{path}", {blank})'
    return f'self.register_buffer("{path}", torch.tensor({tensor.tolist()}{kind}), persistent=False)'


def _constructed(layer: nn.Module, path: str) -> str:
    """The call that makes such a layer: arguments that differ from their defaults."""
    known = getattr(nn, type(layer).__name__, None) is type(layer)
    if not known or (list(layer.children()) and not isinstance(layer, nn.MultiheadAttention)):
        raise _unwritten(f"{type(layer).__module__}.{type(layer).__name__}", path)
    positional, named = [], []
    for argument in _arguments(layer):
        try:
            value = SETTINGS[argument.name](layer) if argument.name in SETTINGS else getattr(layer, argument.name)
        except AttributeError as error:
            if argument.default is None:  # An old name of another argument.
                continue
            raise _unwritten(f"{type(layer).__name__}({argument.name}=...)", path) from error
        if argument.default is argument.empty:
            positional.append(_literal(value, path))
        elif value != argument.default and not _doubled(value, argument.default):
            named.append(f"{argument.name}={_literal(value, path)}")
    return f"nn.{type(layer).__name__}({', '.join(positional + named)})"


def _arguments(layer: nn.Module) -> list[inspect.Parameter]:
    """What makes such a layer; those of recurrent layers stand at their base."""
    recurrent = isinstance(layer, nn.RNNBase)
    made = inspect.signature((nn.RNNBase if recurrent else type(layer)).__init__).parameters.values()
    found = [one for one in list(made)[2 if recurrent else 1 :] if not one.name.startswith("_")]
    if isinstance(layer, nn.RNN):
        found.append(inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY, default="tanh"))
    return [one for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def _has_bias(layer: Any) -> bool:
    """Recurrent layers keep the answer, others the bias."""
    bias = layer.in_proj_bias if hasattr(layer, "in_proj_bias") else layer.bias
    return bias if isinstance(bias, bool) else bias is not None


def _shared(network: nn.Module) -> list[str]:
    """Lines that tie parameters which are one."""
    first: dict[int, str] = {}
    lines = []
    for path, parameter in network.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), path) != path:
            lines.append(f"self.{path} = self.{first[id(parameter)]}")
    return lines


def _doubled(value: Any, default: Any) -> bool:
    """Whether a layer keeps its default once for each axis."""
    return isinstance(value, tuple) and set(value) == {default}


def _foreign_dtype(layer: nn.Module) -> torch.dtype | None:
    weight = next(layer.parameters(), None)
    return None if weight is None or weight.dtype == torch.float32 else weight.dtype


def _forward(code: fx.Graph) -> tuple[list[str], list[str]]:
    """Arguments and lines of `forward`; a chain goes through one `x`."""
    last = {}
    for node in code.nodes:
        for read in node.all_input_nodes:
            last[read] = node
    names: dict[fx.Node, str] = {}
    inputs, lines = [], []
    free: list[str] = []
    for node in code.nodes:
        if node.op == "placeholder":
            names[node] = "x" if not inputs else f"x{len(inputs) + 1}"
            inputs.append(names[node])
            continue
        if node.op == "output":
            lines.append(f"return {_expression(node.args[0], names)}")
            continue
        value = _call(node, names)
        free += [names[read] for read in node.all_input_nodes if last[read] is node and names[read].isidentifier()]
        if node.op == "get_attr":
            names[node] = value
            continue
        names[node] = free.pop(0) if free else _fresh("y", {*names.values()})
        free = [name for name in dict.fromkeys(free) if name != names[node]]
        lines.append(f"{names[node]} = {value}")
    return inputs, lines


def _call(node: fx.Node, names: Mapping[fx.Node, str]) -> str:
    args = [_expression(item, names) for item in node.args]
    args += [f"{key}={_expression(item, names)}" for key, item in node.kwargs.items()]
    if node.op == "get_attr":
        return f"self.{node.target}"
    if node.op == "call_module":
        return f"self.{node.target}({', '.join(args)})"
    if node.op == "call_method":
        return f"{args[0]}.{node.target}({', '.join(args[1:])})"
    if node.target in OPERATORS and len(args) == 2:
        base = f"({args[0]})" if args[0].startswith("-") else args[0]  # A power binds closer than the sign.
        return f"{base} {OPERATORS[node.target]} {args[1]}"
    if node.target in UNARY:
        return f"{UNARY[node.target]}{args[0]}"
    if node.target is getattr and len(args) == 2:
        return f"{args[0]}.{node.args[1]}"
    if node.target is operator.getitem:
        return f"{args[0]}[{_index(node.args[1], names)}]"
    return f"{_function(node)}({', '.join(args)})"


def _function(node: fx.Node) -> str:
    target: Any = node.target
    name = getattr(target, "__name__", "")
    if getattr(builtins, name, None) is target:
        return name
    places = {"torch": torch, "nn.functional": nn.functional, "torch.special": torch.special, "math": math}
    found = next((place for place, module in places.items() if getattr(module, name, None) is target), None)
    if found is not None:
        return f"{found}.{name}"
    for place, module in {"torch.fft": torch.fft, "torch.linalg": torch.linalg}.items():  # There as `fft_rfft`.
        own = name.removeprefix(f"{place.partition('.')[2]}_")
        if getattr(module, own, None) is target:
            return f"{place}.{own}"
    raise _unwritten(str(target), node.name)


def _index(value: Any, names: Mapping[fx.Node, str]) -> str:
    """What stands between the brackets of `x[...]`; several tensors are an index each, and no list."""
    if isinstance(value, tuple) and len(value) != 1:
        return ", ".join(_index(part, names) for part in value) or "()"
    if isinstance(value, tuple):
        return f"{_index(value[0], names)},"
    return _sliced(value, names) if isinstance(value, slice) else _expression(value, names)


def _sliced(value: slice, names: Mapping[fx.Node, str]) -> str:
    start, stop, step = (
        "" if end is None else _expression(end, names) for end in (value.start, value.stop, value.step)
    )
    return f"{start}:{stop}" + (f":{step}" if step else "")


def _expression(value: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, tuple | list):
        inner = ", ".join(_expression(item, names) for item in value)
        tensors = any(isinstance(item, fx.Node) for item in value) and not any(isinstance(i, slice) for i in value)
        listed = isinstance(value, list) or tensors  # A stored network has tuples in place of lists.
        return f"[{inner}]" if listed else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        return f"slice({', '.join(_expression(item, names) for item in (value.start, value.stop, value.step))})"
    return _literal(value, "forward")


def _literal(value: Any, place: str) -> str:
    if isinstance(value, torch.Size):
        value = tuple(value)
    if value is None or value is Ellipsis or isinstance(value, bool | str | torch.dtype | torch.memory_format):
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):  # Those of numpy are floats with another repr.
        return repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, tuple | list):
        inner = ", ".join(_literal(item, place) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    raise _unwritten(repr(value), place)


def _check(source: str, name: str, network: fx.GraphModule) -> None:
    """Run the source, load the weights strictly, and compare layers, and the computation where it can be read."""
    space: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        exec(compile(source, f"{name}.py", "exec"), space)
        made: nn.Module = space[name]()
    made.load_state_dict(network.state_dict())
    for (path, one), (_, other) in zip(network.named_children(), made.named_children(), strict=True):
        if one.extra_repr() != other.extra_repr():
            raise _unwritten(f"{type(one).__name__}({one.extra_repr()})", path)
    try:
        code = fx.Tracer().trace(made)
    except Exception:  # Lengths that are computed with cannot be read.
        return
    if _computed(code) != _computed(network.graph):
        raise _unwritten("an operation that reads otherwise than it computes", "forward")


def _computed(code: fx.Graph) -> str:
    """The output as a function of inputs, layers and parameters, whatever the names and the order."""
    found: dict[fx.Node, str] = {}
    for place, node in enumerate(code.nodes):
        facts: tuple[Any, ...] = (place,)
        if node.op != "placeholder":
            facts = (node.target, _compared(node.args, found), _compared(sorted(node.kwargs.items()), found))
        found[node] = hashlib.sha256(repr((node.op, *facts)).encode()).hexdigest()
    return "".join(found[node] for node in code.nodes if node.op == "output")


def _compared(value: Any, found: Mapping[fx.Node, str]) -> Any:
    if isinstance(value, fx.Node):
        return found[value]
    if isinstance(value, slice):
        return ("slice", *(_compared(item, found) for item in (value.start, value.stop, value.step)))
    if isinstance(value, tuple | list):
        return tuple(_compared(item, found) for item in value)
    return float(value) if isinstance(value, float) else value


def _unwritten(got: str, place: str) -> UnsupportedOpError:
    remedy = "take form.module and its state_dict instead, or write this part with layers of torch.nn"
    return UnsupportedOpError(explain("layers of torch.nn and functions of torch", got, place, remedy))

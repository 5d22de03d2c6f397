"""Elementwise functions written in several operations, such as `x * torch.sigmoid(x)`, read as one nonlinearity."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pluriform.graph.graph import Graph, Node
from pluriform.graph.ops import Op
from pluriform.infinite.activation.expression import Expression, dual_of_expression
from pluriform.infinite.activation.rule import activation
from pluriform.infinite.plan import Step
from pluriform.infinite.translation.joins import constant_of
from pluriform.infinite.translation.place import Place

__all__ = ["Written", "elementwise", "elementwise_step"]

BINARY = {Op.ADD: "add", Op.SUBTRACT: "subtract", Op.MULTIPLY: "multiply", Op.DIVIDE: "divide"}
RANDOM = ("prelu", "rrelu", "positive")


@dataclass(frozen=True)
class Written:
    """A node as an elementwise function of another.

    Attributes:
        base: Name of the node that it is a function of.
        expression: The function.
    """

    base: str
    expression: Expression

    @property
    def single(self) -> bool:
        """Whether rules of single operations serve it: one nonlinearity between factors, or a linear function."""
        if self.expression.units != 1 or self.expression.bends > 1:
            return False
        return self.expression.bends == 0 or not _shifted(self.expression)


def elementwise(graph: Graph, fixed: frozenset[str]) -> dict[str, Written]:
    """Every node that is an elementwise function of one node, which is none itself and is random."""
    found: dict[str, Written] = {}
    for node in graph.nodes:
        if node.name in fixed or node.op is Op.OUTPUT:
            continue
        parts = [_part(name, found) for name in node.inputs if graph[name].op is not Op.PARAMETER]
        bases = {part.base for part in parts}
        expression = _expression(node, graph, tuple(part.expression for part in parts)) if len(bases) == 1 else None
        if expression is not None and not bases & fixed:
            found[node.name] = Written(bases.pop(), expression)
    return found


def elementwise_step(place: Place, written: Mapping[str, Written]) -> Step | None:
    """The step of a node that takes several operations at once, or `None` where its own rule serves.

    Raises:
        UnsupportedOpError: The function has no moments here.
    """
    found = written.get(place.node.name)
    if found is None or found.single:
        return None
    dual = dual_of_expression(found.expression)
    if dual is None:
        raise place.refuse(
            "an elementwise function that is smooth or a piecewise polynomial, and grows slower than a Gaussian falls",
            f"{found.expression.bends} nonlinearities in a row, of {found.base}",
            "use one nonlinearity of torch.nn.functional, or put a linear or convolutional layer before it",
        )
    return Step(place.node.name, (found.base,), partial(activation, dual=dual), place.where, bends=True)


def _part(name: str, found: Mapping[str, Written]) -> Written:
    return found.get(name, Written(name, Expression()))


def _expression(node: Node, graph: Graph, parts: tuple[Expression, ...]) -> Expression | None:
    """What the operation of a node makes of its arguments, or `None` where it is not elementwise."""
    if node.op is Op.ACTIVATION and len(parts) == 1:
        name = str(node.attributes["function"])
        if name == "positive":
            return parts[0]
        facts = tuple((key, value) for key, value in node.attributes.items() if key != "function")
        return None if name in RANDOM else Expression(name, parts, facts)
    if node.op is Op.IDENTITY or (node.op is Op.DROPOUT and not node.attributes["active"]):
        return parts[0]
    if node.op not in BINARY or node.attributes.get("rounding_mode"):
        return None
    alpha = node.attributes.get("alpha", 1)
    if len(parts) == 2:
        scaled = parts[1] if alpha == 1 else Expression("multiply", (Expression.number(alpha), parts[1]))
        return Expression(BINARY[node.op], (parts[0], scaled))
    constant = constant_of(Place(graph, node, (), frozenset(), {}))
    if constant is None or alpha != 1:
        return None
    number, backwards = Expression.number(constant), bool(node.attributes.get("reversed", False))
    return Expression(BINARY[node.op], (number, parts[0]) if backwards else (parts[0], number))


def _shifted(expression: Expression) -> bool:
    """Whether a number is added before or after a nonlinearity, or something is divided by the unit."""
    if expression.name in ("add", "subtract"):
        return True
    if expression.name == "divide" and expression.arguments[1].units:
        return True
    return any(_shifted(part) for part in expression.arguments)

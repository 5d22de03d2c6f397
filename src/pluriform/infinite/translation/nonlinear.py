"""Steps of elementwise nonlinearities and of dropout."""

from functools import partial
from typing import Any

from pluriform.infinite.activation.dual import Dual
from pluriform.infinite.activation.named import NAMED, dual_named
from pluriform.infinite.activation.rectifier import Abrelu
from pluriform.infinite.activation.rule import activation
from pluriform.infinite.branch import identity, scale
from pluriform.infinite.dropout import dropout
from pluriform.infinite.plan import Step
from pluriform.infinite.translation.place import Place

__all__ = ["activation_step", "dropout_step", "dual_of", "identity_step"]


def dual_of(place: Place) -> Dual:
    """The moments of an activation node.

    Raises:
        UnsupportedOpError: There are none.
    """
    name = str(place.fact("function"))
    if name == "prelu":
        return _prelu(place)
    if len(place.node.inputs) > len(place.inputs):
        raise place.refuse(
            f"{name} with numbers", f"{name} with a tensor that the module holds", "write its value as a number"
        )
    if (name != "rrelu" or not _is_training(place)) and (dual := dual_named(name, place.node.attributes)) is not None:
        return dual
    raise place.refuse(
        f"one of {', '.join(sorted(NAMED))}, or prelu with one frozen slope; powers with a whole exponent of 0 or more",
        f"{name}{' in training mode' if name == 'rrelu' else ''}",
        "use one of these: others are random, or have no moments under a Gaussian",
    )


def _is_training(place: Place) -> bool:
    return place.node.module is None or place.graph.submodule(place.node).training


def _prelu(place: Place) -> Dual:
    slope = place.parameters[0]
    if slope.requires_grad or bool((slope != slope.flatten()[0]).any()):
        raise place.refuse(
            "prelu with one frozen slope",
            "a trainable slope, or one for each channel",
            "call weight.requires_grad_(False) on it, or use leaky_relu",
        )
    return Abrelu(float(slope.flatten()[0]), 1.0)


def activation_step(place: Place, _: Any) -> Step:
    """A nonlinearity with its moments; a change of sign is none."""
    if place.fact("function") == "neg":
        return place.step(partial(scale, factor=-1.0))
    if place.fact("function") == "positive":
        return place.step(identity)
    return place.step(partial(activation, dual=dual_of(place)), bends=True)


def identity_step(place: Place, _: Any) -> Step:
    """What does nothing."""
    return place.step(identity)


def dropout_step(place: Place, _: Any) -> Step:
    """Dropout in training mode; in evaluation mode it does nothing."""
    probability = float(place.fact("p", 0.5))
    if not place.fact("active") or probability == 0:
        return identity_step(place, _)
    kind = _kind(place)
    if "alpha" in kind or place.inputs[0] in place.fixed:
        raise place.refuse(
            "dropout of random units, which sets them to zero",
            "alpha dropout" if "alpha" in kind else "dropout of the inputs, of which there are finitely many",
            "call module.eval(), or put nn.Dropout behind a layer with weights",
        )
    whole = kind in ("dropout1d", "dropout2d", "dropout3d")
    return place.step(partial(dropout, keep=1 - probability, whole_channels=whole))


def _kind(place: Place) -> str:
    """Name of the function: `dropout`, `dropout2d`, `alpha_dropout`, ..."""
    if place.node.module:
        name = type(place.graph.submodule(place.node)).__name__.lower()
        return name.replace("alphadropout", "alpha_dropout")
    return str(getattr(place.graph.fx_node(place.node.name).target, "__name__", ""))

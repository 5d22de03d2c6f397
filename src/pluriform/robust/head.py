"""A network with a new last layer for another data set."""

import copy
from typing import Any

import torch
from torch import nn

from pluriform.data.data import Data
from pluriform.errors import ConfigError, GraphError, ShapeError, explain
from pluriform.graph.graph import Graph
from pluriform.graph.head import find_head, replace_head
from pluriform.graph.parameters import modes_kept
from pluriform.graph.trace import trace
from pluriform.method import run_once
from pluriform.prediction import Predictor

__all__ = ["check_fits", "head_path", "network_of", "read", "with_new_head"]


def network_of(source: nn.Module) -> nn.Module:
    """The network of a fitted form, or the plain network itself.

    Raises:
        ConfigError: A form of several networks, or of none.
    """
    if not isinstance(source, Predictor):
        return source
    network = getattr(source, "module", None)
    if isinstance(network, nn.Module):
        return network
    raise ConfigError(
        explain(
            "a form of one network, which it holds as form.module",
            type(source).__name__,
            "source of the transfer",
            "pass one of its networks, or a form of Training, AdversarialTraining, JEM or DAT",
        )
    )


def check_fits(source: nn.Module, data: Data) -> None:
    """Hold a fitted form against a data set, and run its network on it once.

    Raises:
        ShapeError: The network was fitted on inputs of another shape, or does not take these.
        ConfigError: It was fitted on inputs of another range, or the target is no classification.
    """
    where = f"transfer of {type(network_of(source)).__name__} to {data.name}"
    if data.task != "classification":
        raise ConfigError(explain("classification", data.task, where, "take a data set with classes"))
    if isinstance(source, Predictor):
        known = source.signature
        if known.input_shape != data.input_shape:
            resize = f"reshaped(data, {known.input_shape}) of pluriform.data.reshape brings pictures to that shape"
            remedy = f"{resize}; or pass form.module, where the network takes both"
            expected = f"inputs of shape {known.input_shape}, as of {known.name}, which the form was fitted on"
            raise ShapeError(explain(expected, f"{data.input_shape}", where, remedy))
        if known.bounds and data.bounds and known.bounds != data.bounds:
            remedy = "scale the inputs of the target alike"
            raise ConfigError(explain(f"inputs within {known.bounds}", f"{data.bounds}", where, remedy))
    with torch.random.fork_rng(devices=[]):
        run_once(copy.deepcopy(network_of(source)), data)


def with_new_head(source: nn.Module, data: Data, name: str | None, seed: int) -> nn.Module:
    """A copy of a network whose last layer gives the classes of `data`; all other keys of its state stay.

    Args:
        source: A form of one network, or a network; left as it is.
        data: The target.
        name: Dotted path of the head; found in the graph by default.
        seed: Of the new weights, drawn as torch does by default.

    Raises:
        GraphError: No layer is clearly the head, or there is none of that name.
        ShapeError: The network does not take these inputs, or has fixed the old width elsewhere.
        ConfigError: The target is no classification, or the source no form of one network.
    """
    network = network_of(source)
    check_fits(source, data)
    flags = {own: parameter.requires_grad for own, parameter in network.named_parameters()}
    graph = read(network, data)
    try:
        edited = replace_head(graph, data.outputs, head_path(graph, name), seed).root
    except GraphError as error:  # It names an argument of `replace_head`.
        raise GraphError(str(error).replace("name=", "head=")) from error
    for own, parameter in edited.named_parameters():
        parameter.requires_grad_(flags.get(own, True))
    return edited


def head_path(graph: Graph, name: str | None) -> str:
    """Dotted path of the head: the given one, or what the graph shows.

    Raises:
        GraphError: No layer is clearly the head, or there is none of that name.
    """
    if name is None:
        return str(find_head(graph).module)
    network = graph.root
    if name and name in dict(network.named_modules()):
        return name
    layers = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear)][-3:]
    where, remedy = type(network).__name__, f"name one of its layers, such as {' or '.join(layers) or 'classifier'}"
    raise GraphError(explain("the dotted path of a layer", repr(name), where, remedy))


def read(network: nn.Module, data: Data) -> Graph:
    """The graph of a network in evaluation mode, on two samples; every mode comes back."""
    sample, _ = data.train.batch(torch.arange(min(2, len(data.train))))
    tensor: Any = next(network.parameters(), sample)
    with modes_kept(network):
        return trace(network.eval(), sample.to(tensor.device))

"""Training of the last layer alone, on features that are computed once."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from pluriform.available_memory import available_memory
from pluriform.data.data import Data, Split, StreamSplit
from pluriform.errors import GraphError, MemoryBudgetError, explain
from pluriform.graph.cut import suffix
from pluriform.graph.features import tap
from pluriform.graph.graph import Graph
from pluriform.graph.parameters import modes_kept
from pluriform.training.feed import take

__all__ = ["Cached", "cached"]

BATCH = 250
ROOM = 0.5  # Share of the free memory that features may take.


@dataclass(frozen=True, eq=False)
class Cached:
    """What a linear probe is trained with.

    Attributes:
        tail: The network from its head on; shares no weights with it.
        data: Inputs of the head for both splits, in evaluation mode; the test split is empty.
        seconds: It took to compute them.
    """

    tail: nn.Module
    data: Data
    seconds: float

    def give_back(self, network: nn.Module, head: str) -> None:
        """Copy the trained head into the network."""
        network.get_submodule(head).load_state_dict(self.tail.get_submodule(head).state_dict())


def cached(network: nn.Module, graph: Graph, head: str, data: Data, device: torch.device) -> Cached:
    """Pass once over training and validation split.

    Args:
        network: On its device.
        graph: Of it, in evaluation mode.
        head: Dotted path of its head.
        data: Gives the inputs.
        device: Of the network.

    Raises:
        GraphError: The head is not called once, with one input, behind everything else.
        MemoryBudgetError: The features do not fit memory.
    """
    begin = time.perf_counter()
    if head not in graph or graph[head].calls != 1:
        raise _refusal(head, "no single call of it in the graph", network)
    before = graph[head].inputs[0]
    try:
        tail = suffix(graph, before).root
    except GraphError as error:
        raise _refusal(head, str(error), network) from error
    _check_room(graph, before, data)
    features = tap(graph, before)
    with modes_kept(network):
        features.eval()
        train = _features(features, before, data.train, device)
        checked = _features(features, before, data.validation, device) if len(data.validation) else train
    if not len(data.validation):
        checked = Split(train.inputs[:0], train.targets[:0])
    empty = Split(train.inputs[:0], train.targets[:0])
    made = replace(data, train=train, validation=checked, test=empty, bounds=None, unlabelled=None)
    return Cached(tail, made, time.perf_counter() - begin)


@torch.no_grad()
def _features(features: fx.GraphModule, name: str, split: Split | StreamSplit, device: torch.device) -> Split:
    parts: list[Tensor] = []
    targets: list[Tensor] = []
    for index in torch.arange(len(split)).split(BATCH):
        inputs, labels = take(split, index)
        parts.append(features(inputs.to(device))[name].cpu())
        targets.append(labels.cpu())
    return Split(torch.cat(parts), torch.cat(targets))


def _check_room(graph: Graph, before: str, data: Data) -> None:
    shape = graph[before].shape
    size = 4 * (len(data.train) + len(data.validation)) * torch.Size(shape[1:]).numel()
    free = available_memory()
    if size > ROOM * free:
        expected, got = f"features of at most {ROOM * free / 1e9:.1f} GB", f"{size / 1e9:.1f} GB"
        where, remedy = f"linear probe on {data.name}", "mode='fixed-feature' computes them anew in each epoch"
        raise MemoryBudgetError(explain(expected, got, where, remedy))


def _refusal(head: str, got: str, network: nn.Module) -> GraphError:
    where = f"linear probe of {type(network).__name__}"
    return GraphError(explain(f"a head {head!r} behind everything else", got, where, "use mode='fixed-feature'"))

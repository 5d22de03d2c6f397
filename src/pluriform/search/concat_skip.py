"""`concat_skip`: v <- L([v ; ReLU(pool(u))]) with L = [I | 0], a 1x1 convolution or a dense layer.

The new layer lies on the main path, where weight decay pulls its identity towards zero; `add_skip` has no such pull.

References:
    Jin, Song, Hu 2019, Auto-Keras: An Efficient Neural Architecture Search System, arXiv:1806.10282.
"""

from collections.abc import Iterator

from pluriform.graph.graph import Node
from pluriform.graph.ops import Op
from pluriform.search.add_skip import ends_of, feed, skip_pairs
from pluriform.search.deepen import unit_layer
from pluriform.search.morphism import Change, Insertion, Morph, NewLayer
from pluriform.search.outline import Outline, layer_node
from pluriform.search.places import Family

__all__ = ["concat_skip", "concat_skip_moves"]


def concat_skip_moves(outline: Outline) -> Iterator[Morph]:
    """Every pair of tensors that a concatenated skip can join."""
    for start, end in skip_pairs(outline):
        yield Morph("concat_skip", (start, end))


def concat_skip(outline: Outline, morph: Morph) -> Change:
    """Plan a skip that is concatenated.

    Args:
        outline: The network.
        morph: `place` names start and end.

    Raises:
        GraphError: No block ends there, the end comes first, or the lengths do not fit.
    """
    source, target = ends_of(outline, morph)
    stem = outline.fresh_name("concat")
    fed, end = feed(source, target, stem), target.node
    axis = 1 if target.family is Family.CONV else len(end.shape) - 1
    shape = (*end.shape[:axis], target.width + source.width, *end.shape[axis + 1 :])
    joined = Node(f"{stem}_cat", Op.CONCAT, (end.name, fed.result.name), shape, end.dtype, None, {"dim": axis})
    layer = NewLayer(f"{stem}.layer", unit_layer(target, target.width + source.width, target.width), "identity")
    node = layer_node(layer.path, layer.module, joined, end.shape)
    return Change((*fed.layers, layer), Insertion(end.name, (*fed.nodes, joined, node)))

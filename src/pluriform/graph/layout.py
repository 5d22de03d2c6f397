"""Which channels stand where along an axis, and the union-find that ties them.

A `Layout` writes an axis as spans of channel sets, in order. With A of 4 and B of 2 channels:

    concat of A and B          (A, B)
    (A, 3, 3) flattened        (A repeated 9 times each)
    (7, A) flattened           (A, A, A, A, A, A, A)

Tying two layouts that must be equal splits sets where spans begin, until each set is free or a layout of others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Layout", "Span", "Ties"]

MOST_COPIES = 4096


@dataclass(frozen=True)
class Span:
    """A whole channel set along an axis: `size` channels, each filling `repeat` consecutive positions."""

    channels: int
    size: int
    repeat: int = 1

    @property
    def length(self) -> int:
        """Positions of the axis that this span covers."""
        return self.size * self.repeat


Layout = tuple[Span, ...]


class Ties:
    """Channel sets that are equal, split or repeated forms of one another (union-find by substitution)."""

    def __init__(self) -> None:
        self._forms: list[Layout | None] = []
        self._reasons: list[str | None] = []

    def fresh(self, size: int, reason: str | None = None) -> Layout:
        """A new channel set as a layout; fixed from the start where a reason is given."""
        self._forms.append(None)
        self._reasons.append(reason)
        return (Span(len(self._forms) - 1, size),)

    def resolve(self, layout: Layout) -> Layout:
        """The layout in sets that are not yet known as forms of others."""
        spans: list[Span] = []
        for span in layout:
            form = self._forms[span.channels]
            if form is None:
                spans.append(span)
                continue
            form = self._forms[span.channels] = self.resolve(form)
            spans += [Span(part.channels, part.size, part.repeat * span.repeat) for part in form]
        return tuple(spans)

    def reason(self, channels: int) -> str | None:
        """Why a set is fixed, or None where it is free."""
        return self._reasons[channels]

    def free(self, layout: Layout) -> bool:
        """Whether any set of the layout may still change."""
        return any(self._reasons[span.channels] is None for span in self.resolve(layout))

    def freeze(self, layout: Layout, reason: str) -> None:
        """Fix every set of a layout; the first reason given for a set stays."""
        for span in self.resolve(layout):
            self._reasons[span.channels] = self._reasons[span.channels] or reason

    def tie(self, first: Layout, second: Layout, reason: str) -> None:
        """Make two layouts of equal length the same; what cannot be aligned is fixed for `reason`."""
        left, right = list(self.resolve(first)), list(self.resolve(second))
        while left and right:
            shorter, longer = sorted((left, right), key=lambda side: side[0].length)
            if shorter[0].length < longer[0].length:
                self._cut_first(longer, shorter[0], reason)
            else:
                self._link(left.pop(0), right.pop(0), reason)
            left, right = list(self.resolve(tuple(left))), list(self.resolve(tuple(right)))

    def split(self, layout: Layout, lengths: Sequence[int], reason: str) -> list[Layout]:
        """Cut a layout into consecutive pieces of given lengths."""
        pieces = [self.fresh(length) for length in lengths]
        self.tie(layout, tuple(span for piece in pieces for span in piece), reason)
        return [self.resolve(piece) for piece in pieces]

    def flatten(self, layouts: Sequence[Layout], reason: str) -> Layout:
        """The layout of axes merged into one, the last fastest."""
        merged = self.resolve(layouts[0])
        for layout in layouts[1:]:
            inner, copies = self.resolve(layout), length_of(merged)
            if self.free(inner) and (self.free(merged) or copies > MOST_COPIES):
                self.freeze(inner, reason)
            if self.free(inner):
                merged = inner * copies
            else:
                merged = tuple(Span(span.channels, span.size, span.repeat * length_of(inner)) for span in merged)
        return merged

    def unflatten(self, layout: Layout, sizes: Sequence[int], reason: str, keep: int | None = None) -> list[Layout]:
        """The layouts of an axis split into several of given sizes, the last fastest.

        One of them may still change: the first, or `keep`; or where the axis was merged before, the one it had then.
        """
        if keep is not None:
            return self._unflatten_at(self.resolve(layout), sizes, reason, keep)
        axes, rest = [], layout
        for position, size in enumerate(sizes[:-1]):
            outer, rest = self._halve(rest, size, math.prod(sizes[position + 1 :]), reason)
            axes.append(outer)
        return [*axes, rest]

    def _unflatten_at(self, layout: Layout, sizes: Sequence[int], reason: str, keep: int) -> list[Layout]:
        blocks = self.fresh(sizes[keep])
        inner, copies = math.prod(sizes[keep + 1 :]), math.prod(sizes[:keep])
        self.tie(layout, (Span(blocks[0].channels, sizes[keep], inner),) * copies, reason)
        return [self.resolve(blocks) if axis == keep else self.fresh(size, reason) for axis, size in enumerate(sizes)]

    def _halve(self, layout: Layout, outer: int, inner: int, reason: str) -> tuple[Layout, Layout]:
        layout = self.resolve(layout)
        if outer == 1:
            return self.fresh(1, reason), layout
        if inner == 1:
            return layout, self.fresh(1, reason)
        if not self.free(layout):
            return self.fresh(outer, reason), self.fresh(inner, reason)
        period = len(layout) // outer
        if length_of(layout[:period]) == inner and layout[:period] * outer == layout:
            return self.fresh(outer, reason), layout[:period]
        blocks = self.fresh(outer)
        self.tie(layout, (Span(blocks[0].channels, outer, inner),), reason)
        return self.resolve(blocks), self.fresh(inner, reason)

    def _cut_first(self, side: list[Span], opposite: Span, reason: str) -> None:
        """Make the first span of a side as long as the one opposite."""
        span, length = side[0], opposite.length
        if length % span.repeat:
            self.freeze((span, opposite), reason)
            side[:1] = [*self.fresh(length, reason), *self.fresh(span.length - length, reason)]
            return
        size, why = length // span.repeat, self._reasons[span.channels]
        parts = (*self.fresh(size, why), *self.fresh(span.size - size, why))
        self._forms[span.channels] = parts
        side[:1] = self.resolve((span,))

    def _link(self, first: Span, second: Span, reason: str) -> None:
        """Tie two spans of equal length."""
        if (first.repeat == second.repeat and first.channels > second.channels) or first.repeat < second.repeat:
            first, second = second, first
        if first.channels == second.channels and first.repeat == second.repeat:
            return
        if first.repeat % second.repeat or first.channels == second.channels:
            self.freeze((first, second), reason)
            return
        self._forms[second.channels] = (Span(first.channels, first.size, first.repeat // second.repeat),)
        self._reasons[first.channels] = self._reasons[first.channels] or self._reasons[second.channels]


def length_of(layout: Layout) -> int:
    """Positions of the axis."""
    return sum(span.length for span in layout)

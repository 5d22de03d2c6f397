"""The Square attack: random search by windows, on the scores alone; no gradient is ever computed."""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pluriform.attacks.noise import bits
from pluriform.attacks.objective import margin
from pluriform.attacks.threat import Threat
from pluriform.attacks.windows import Draws, Grid, blocks, bump, draw, fingerprint, window_fraction, window_shape
from pluriform.axes import Inputs, Labels, Scores
from pluriform.errors import ConfigError, explain

__all__ = ["square"]

Planes = Float[Tensor, "batch channels values"]
FLOOR = 1e-12


def square(
    module: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    *,
    seed: int = 0,
    queries: int = 5000,
    restarts: int = 1,
    fraction: float | int = 0.8,
    rescale_schedule: bool = False,
) -> Inputs:
    """Random search on the margin `max_{i != y} z_i - z_y`: changes in ever smaller windows are kept where it rises.

    In Linf a query sets a square window to `x +- eps`, one sign a channel. In L2 it moves the perturbation of one
    window into another, in the shape of a bump of two opposite halves. A sample that has fallen is left alone.

    Images have shape `(channels, height, width)`. Sequences `(channels, length)` and vectors `(length,)`, tables for
    instance, are searched by blocks of neighbouring coordinates instead of squares.

    The published code uses one window for all samples of a batch. Here every sample has its own, from a hash of the
    sample, so that its result does not depend on the batch; and windows reach the last row and column.

    Args:
        module: In evaluation mode.
        inputs: Inside the threat's bounds.
        labels: True classes.
        threat: With bounds; linf or l2.
        seed: Of all random numbers.
        queries: Perturbed points tried for each sample in a search, the first among them.
        restarts: Searches; the later ones for the samples that still stand.
        fraction: Of the values, inside the first windows.
        rescale_schedule: Stretch the schedule of windows, made for 10,000 queries, to `queries`. Off as in AutoAttack.

    Returns:
        The points of highest margin. A sample that is misclassified unperturbed stays as it is.

    Raises:
        ConfigError: L1, inputs that are no images, sequences or vectors, fewer than 2 classes, or impossible options.

    References:
        Andriushchenko, Croce, Flammarion, Hein, 2020, Square attack: a query-efficient black-box adversarial attack
        via random search, arXiv 1912.00049.
    """
    _check_options(inputs, threat, queries, restarts, fraction)
    found = inputs.clone()
    if queries == 0:
        return found
    grid, odd = Grid.of(tuple(inputs.shape[1:])), threat.norm == "l2"
    budget = queries if rescale_schedule else None
    shapes = [window_shape(window_fraction(query, fraction, budget), grid, odd) for query in range(queries)]
    with torch.no_grad():
        leads = margin(module(inputs), labels)
        for restart in range(restarts):
            rows = (leads <= 0).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            search = _Search(module, inputs[rows], labels[rows], threat, shapes, seed, restart)
            search.run()
            better = search.leads > leads[rows]
            found[rows[better]] = search.points[better]
            leads[rows[better]] = search.leads[better]
    return found


def _check_options(inputs: Inputs, threat: Threat, queries: int, restarts: int, fraction: float | int) -> None:
    faults = []
    if threat.norm not in ("linf", "l2"):
        faults.append(("norm linf or l2", f"norm {threat.norm}", "attack L1 with apgd-ce, apgd-t or fab-t"))
    if inputs.ndim not in (2, 3, 4):
        got = f"inputs of shape {tuple(inputs.shape[1:])}"
        faults.append(("images, sequences or vectors", got, "reshape inside the network, and pass (channels, h, w)"))
    if queries < 0 or restarts < 1:
        faults.append(("queries >= 0 and restarts >= 1", f"queries {queries}, restarts {restarts}", "raise them"))
    if not 0 < fraction <= 1:
        faults.append(("a fraction above 0, at most 1", f"fraction {fraction}", "the published value is 0.8"))
    for expected, got, remedy in faults:
        raise ConfigError(explain(expected, got, "square", remedy))


class _Proposals(Protocol):
    """Best points of a batch, and changes of them that are tried and then kept or taken back."""

    points: Planes

    def propose(self, draws: Draws, query: int, shape: tuple[int, int]) -> Planes: ...

    def settle(self, better: Bool[Tensor, "batch"]) -> None: ...

    def select(self, rows: Tensor) -> None: ...


class _Search:
    """One search of a batch. Samples that have fallen are left out of the batch from the next block of queries on."""

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        inputs: Inputs,
        labels: Labels,
        threat: Threat,
        shapes: list[tuple[int, int]],
        seed: int,
        restart: int,
    ) -> None:
        self.module, self.labels, self.shapes, self.seed = module, labels, shapes, seed
        self.grid = Grid.of(tuple(inputs.shape[1:]))
        self.prints = fingerprint(inputs, seed, restart)
        self.points = inputs.clone()
        self.leads = torch.full_like(inputs.flatten(1)[:, 0], -torch.inf)
        kind = _Squares if threat.norm == "linf" else _Bumps
        self.tried: _Proposals = kind(inputs, self.grid, threat, self.prints, seed)

    def run(self) -> None:
        """All queries; `points` and `leads` hold the best of each sample afterwards."""
        places = torch.arange(len(self.points), device=self.points.device)
        leads = self._ask(self.tried.points, self.labels)
        for block in blocks(len(self.shapes)):
            standing = leads <= 0
            if not bool(standing.all()):
                self._note(places, leads)
                rows = standing.nonzero().squeeze(1)
                if len(rows) == 0:
                    return
                places, leads = places[rows], leads[rows]
                self.tried.select(rows)
            leads = self._try(block, places, leads)
        self._note(places, leads)

    def _try(self, block: range, places: Tensor, leads: Scores) -> Scores:
        """The queries of a block; the highest margins after it."""
        shapes, labels = self.shapes[block.start : block.stop], self.labels[places]
        draws = draw(self.prints[places], self.grid, shapes, self.seed, block.start)
        for query, shape in enumerate(shapes):
            asked = self._ask(self.tried.propose(draws, query, shape), labels)
            better = (asked > leads) & (leads <= 0)
            self.tried.settle(better)
            leads = torch.where(better, asked, leads)
        return leads

    def _ask(self, points: Planes, labels: Labels) -> Scores:
        return margin(self.module(points.view(len(points), *self.points.shape[1:])), labels).to(self.leads.dtype)

    def _note(self, places: Tensor, leads: Scores) -> None:
        self.points[places] = self.tried.points.view(len(places), *self.points.shape[1:])
        self.leads[places] = leads


class _Squares:
    """Linf: windows at the edge of the threat, written in place, and undone where they do not help."""

    def __init__(self, inputs: Inputs, grid: Grid, threat: Threat, prints: Tensor, seed: int) -> None:
        self.grid, (low, high) = grid, threat.box
        clean = inputs.reshape(len(inputs), grid.channels, -1)
        self.edges = torch.cat([(clean - threat.eps).clamp_min(low), (clean + threat.eps).clamp_max(high)], 2)
        stripes = (bits(prints, grid.channels * grid.width, seed) >> 40 & 1).view(len(inputs), grid.channels, 1, -1)
        places = torch.arange(clean.shape[2], device=inputs.device).view(grid.height, grid.width)
        self.points = self.edges.gather(2, (places + stripes * clean.shape[2]).flatten(2))
        self.shape, self.offsets = (0, 0), places.flatten()

    def propose(self, draws: Draws, query: int, shape: tuple[int, int]) -> Planes:
        if shape != self.shape:
            self.shape, self.offsets = shape, self.grid.offsets(shape, self.points.device)
        cells = (draws.first[query][:, None] + self.offsets)[:, None].expand(-1, self.grid.channels, -1)
        self.cells, self.old = cells, self.points.gather(2, cells)
        self.new = self.edges.gather(2, cells + draws.signs[query][:, :, None] * self.points.shape[2])
        return self.points.scatter_(2, cells, self.new)

    def settle(self, better: Bool[Tensor, "batch"]) -> None:
        self.points.scatter_(2, self.cells, torch.where(better[:, None, None], self.new, self.old))

    def select(self, rows: Tensor) -> None:
        self.points, self.edges = self.points[rows], self.edges[rows]


class _Bumps:
    """L2: the perturbation of one window is moved into another, as a bump added to what is there."""

    def __init__(self, inputs: Inputs, grid: Grid, threat: Threat, prints: Tensor, seed: int) -> None:
        self.grid, self.threat = grid, threat
        self.clean = inputs.reshape(len(inputs), grid.channels, -1)
        self.points = self._at_the_edge(self._tiles(prints, seed).to(inputs.dtype))
        self.shape, self.bumps, self.offsets = (0, 0), self.clean, grid.offsets((1, 1), inputs.device)

    def _tiles(self, prints: Tensor, seed: int) -> Planes:
        """A grid of bumps a fifth of the image in size, with random signs."""
        count, grid = len(prints), self.grid
        line = grid.height == 1
        side = max((grid.width if line else min(grid.height, grid.width)) // 5, 1)
        rows, columns = (1 if line else side), side
        down, right = grid.height // rows, grid.width // columns
        random = bits(prints, (grid.channels + 1) * down * right, seed).view(count, grid.channels + 1, down, right)
        random = random >> 40 & 1
        bumps = bump((rows, columns)).to(prints.device)[random[:, :1]]
        tiles = (bumps * (2 * random[:, 1:] - 1)[..., None, None]).permute(0, 1, 2, 4, 3, 5)
        whole = torch.zeros(count, grid.channels, grid.height, grid.width, device=prints.device)
        top, left = (grid.height - down * rows) // 2, (grid.width - right * columns) // 2
        whole[:, :, top : top + down * rows, left : left + right * columns] = tiles.flatten(4).flatten(2, 3)
        return whole.flatten(2)

    def _at_the_edge(self, change: Planes) -> Planes:
        length = torch.linalg.vector_norm(change, dim=(1, 2), keepdim=True)
        return (self.clean + change * (self.threat.eps / length.clamp_min(FLOOR))).clamp(*self.threat.box)

    def propose(self, draws: Draws, query: int, shape: tuple[int, int]) -> Planes:
        if shape != self.shape:
            self.shape, self.offsets = shape, self.grid.offsets(shape, self.points.device)
            self.bumps = bump(shape).flatten(1).to(self.points)
        first, second = (
            (place[query][:, None] + self.offsets)[:, None].expand(-1, self.grid.channels, -1)
            for place in (draws.first, draws.second)
        )
        change = self.points - self.clean
        left = (self.threat.eps**2 - change.square().sum((1, 2), keepdim=True)).clamp_min(0) / self.grid.channels
        here = change.gather(2, first)
        energy = here.square().sum(2, keepdim=True)
        change.scatter_(2, first, 0)
        there = change.gather(2, second).square().sum(2, keepdim=True)
        change.scatter_(2, second, 0)
        fresh = self.bumps[draws.turned[query]][:, None] * (2 * draws.signs[query] - 1)[:, :, None]
        fresh = fresh + here / (energy.sqrt() + FLOOR)
        length = torch.linalg.vector_norm(fresh, dim=2, keepdim=True)
        change.scatter_(2, first, fresh * ((left + energy + there).sqrt() / (length + FLOOR)))
        self.candidate = self._at_the_edge(change)
        return self.candidate

    def settle(self, better: Bool[Tensor, "batch"]) -> None:
        self.points = torch.where(better[:, None, None], self.candidate, self.points)

    def select(self, rows: Tensor) -> None:
        self.points, self.clean = self.points[rows], self.clean[rows]

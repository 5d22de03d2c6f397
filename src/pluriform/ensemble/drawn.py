"""`Drawn`: an ensemble whose members are draws from a source of weights, kept as seeds."""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pluriform.axes import Inputs, Logits, Members
from pluriform.data.signature import Signature
from pluriform.ensemble.calling import Calling, by_count, call_members, split_members
from pluriform.ensemble.statistics import has_statistics, recalibrated
from pluriform.errors import ConfigError, GraphError, explain
from pluriform.graph.parameters import weights_of
from pluriform.metrics.multiplications import multiplications
from pluriform.prediction import Prediction, Predictor
from pluriform.training.seeds import derive_seed

__all__ = ["Drawn", "draw_seeds"]

KEPT_BYTES = 2**30  # Weights of all members are kept up to this size, else drawn again for every batch.
PART_BYTES = 2**28  # Weights that exist at once where they are not kept.
DRAWN_AT_ONCE = 8  # Members that are drawn together for their statistics; a generator draws no fewer.


def draw_seeds(count: int, seed: int) -> tuple[int, ...]:
    """Seeds of the draws 0 .. count - 1; draw i is the same whatever the count."""
    if count < 1:
        raise ConfigError(explain("at least 1 draw", str(count), "draw", "ask for one network or more"))
    return tuple(derive_seed(seed, "draw", i) for i in range(count))


class Drawn(Predictor):
    """Networks of the user's class, drawn from a source; the form keeps the source and one seed a member.

    Classification: p(y | x) = (1 / M) sum_m p_m(y | x), and `forward` is its logarithm. Regression: the mean of the
    means; `prediction.variance` is the variance of the members' means plus a constant noise variance.

    BatchNorm: running statistics of one set of weights are wrong for another, so each member has its own, averaged over
    `calibration` (the policy `recalibrate`).

    Args:
        template: A network of the user's class; gives the code and the weights that the source does not draw.
        source: A module with `draw(seeds) -> dict[str, Tensor]`: values of the template's parameters or buffers by
            name, stacked `(member, *shape)`; draw i depends on `seeds[i]` alone.
        seeds: One a member, all different.
        signature: Facts of the data it was fitted on.
        noise: Noise variance of each regression output, shape `(outputs,)`; `None` in classification.
        calibration: Training inputs `(samples, *input_shape)` for the running statistics; needed where the template has
            BatchNorm and `norms` is `recalibrate`.
        norms: `recalibrate`, or `shared` for the running statistics of the template.
        cost: Figures of the fit, as `FitCost` names them.
        history: Columns of figures through training, by name.

    Raises:
        ConfigError: No seeds, or one of them twice.
    """

    noise: Tensor | None
    calibration: Tensor | None

    def __init__(
        self,
        template: nn.Module,
        source: nn.Module,
        seeds: Sequence[int],
        signature: Signature,
        *,
        noise: Tensor | None = None,
        calibration: Tensor | None = None,
        norms: str = "recalibrate",
        cost: dict[str, float | int] | None = None,
        history: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(signature)
        _check_seeds(seeds)
        self.template, self.source = template, source
        self.seeds = tuple(seeds)
        self.norms = norms
        self.register_buffer("noise", noise)
        self.register_buffer("calibration", calibration if has_statistics(template) else None)
        self.cost, self.history = cost or {}, history or {}
        self.choices: dict[str, Any] = {}  # What the fit chose by size or by measurement.
        self._draw_statistics()

    @torch.inference_mode(False)
    def _draw_statistics(self) -> None:
        """Running statistics of every member, as buffers `statistics/NAME`."""
        if self.norms != "recalibrate" or not has_statistics(self.template) or self.calibration is None:
            return
        members = [
            recalibrated(self.template, {name: column[0] for name, column in one.items()}, self.calibration)
            for start in range(0, self.size, DRAWN_AT_ONCE)
            for one in split_members(self._drawn(self.seeds[start : start + DRAWN_AT_ONCE]), 1)
        ]
        for name in members[0]:
            self.register_buffer(_key(name), torch.stack([own[name] for own in members]))

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.seeds)

    @torch.inference_mode(False)  # What is kept from a prediction in that mode must serve gradients later.
    @torch.no_grad()
    def _drawn(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = self.source.draw(list(seeds))  # type: ignore[operator]
        return {name: tensor.detach() for name, tensor in drawn.items()}

    def _statistics(self, start: int, stop: int) -> dict[str, Tensor]:
        own = dict(self.named_buffers(recurse=False))
        return {name: own[_key(name)][start:stop] for name, _ in self.template.named_buffers() if _key(name) in own}

    def member_weights(self) -> dict[str, Tensor]:
        """Weights of all members by name, `(member, *shape)`; running statistics included."""
        return self._weights if self._weights is not None else self._part(0, self.size)

    @cached_property
    def _weights(self) -> dict[str, Tensor] | None:
        """Weights of all members, drawn once; `None` where they would take too much memory."""
        return self._part(0, self.size) if self.size * self._bytes_a_member <= KEPT_BYTES else None

    @cached_property
    def _bytes_a_member(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._drawn(self.seeds[:1]).values())

    def _part(self, start: int, stop: int) -> dict[str, Tensor]:
        return self._drawn(self.seeds[start:stop]) | self._statistics(start, stop)

    def _parts(self) -> Iterator[dict[str, Tensor]]:
        """Weights of all members, or of as many at a time as may exist at once."""
        if self._weights is not None:
            yield self._weights
            return
        size = max(1, PART_BYTES // self._bytes_a_member)
        for start in range(0, self.size, size):
            yield self._part(start, min(start + size, self.size))

    @cached_property
    def _callings(self) -> dict[int, Calling]:
        return {}

    def calling(self, inputs: Inputs) -> Calling:
        """How a batch of this size is computed."""
        known = self._callings
        if len(inputs) not in known:
            first = self._weights if self._weights is not None else self._part(0, 1)
            known[len(inputs)] = by_count(self.template, first, inputs.detach(), self.size)
        return known[len(inputs)]

    def outputs(self, inputs: Inputs) -> Members:
        """Logits or means of every member, differentiable in `inputs`; activations of one part exist at a time."""
        self.template.eval()
        differentiated = torch.is_grad_enabled() and inputs.requires_grad
        calling = self.calling(inputs).autograd() if differentiated else self.calling(inputs)
        recompute = differentiated and calling.chunk < self.size
        at_once = calling.chunk if recompute or calling.way not in ("loop", "fused") else self.size
        whole = Calling("vmap", at_once) if calling.way == "chunk" else calling

        def compute(part: dict[str, Tensor]) -> Tensor:
            if not recompute:
                return call_members(self.template, part, inputs, whole)
            return checkpoint(  # type: ignore[return-value]
                call_members, self.template, part, inputs, whole, use_reentrant=False
            )

        return torch.cat([compute(own) for part in self._parts() for own in split_members(part, at_once)])

    def forward(self, inputs: Inputs) -> Logits:
        """Logarithm of the mean probability, or the mean of the means."""
        outputs = self.outputs(inputs)
        if self.signature.task != "classification":
            return outputs.mean(0)
        return outputs.log_softmax(-1).logsumexp(0) - math.log(self.size)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Mean, variance in regression, and members."""
        outputs = self.outputs(inputs)
        if self.signature.task == "classification":
            members = outputs.softmax(-1)
            return Prediction(members.mean(0), members=members)
        variance = outputs.var(0, correction=0)
        return Prediction(outputs.mean(0), variance if self.noise is None else variance + self.noise, outputs)

    def counted(self, inputs: Inputs) -> dict[str, int]:
        """`parameters` of template and source, and `macs` of a prediction, whichever way it is computed."""
        modes = {module: module.training for module in self.template.modules()}
        try:
            with torch.no_grad():
                each = multiplications(lambda: self.template.eval()(inputs))
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {"parameters": sum(weight.numel() for weight in self.parameters()), "macs": self.size * each}

    def draw(self, k: int, seed: int = 0) -> "Drawn":
        """A form with `k` other members from the same source.

        Args:
            k: How many.
            seed: Other seeds give other members; draw i of a seed is the same for every `k`. Ensembles around one
                trained network have their own members of the seed of their fit; those of HyperGAN are of no seed here.

        Raises:
            ConfigError: `k` is not at least 1.
        """
        return self.with_seeds(draw_seeds(k, seed))

    def with_seeds(self, seeds: Sequence[int]) -> "Drawn":
        """A form with the members of these seeds, from the same source (not copied).

        Raises:
            ConfigError: No seeds, or one of them twice.
        """
        made = type(self)(
            self.template,
            self.source,
            seeds,
            self.signature,
            noise=self.noise,
            calibration=self.calibration,
            norms=self.norms,
            cost=self.cost,
            history=self.history,
        )
        made.origin, made.choices, made.batch_size = self.origin, self.choices, self.batch_size
        return made.eval()

    @torch.inference_mode(False)
    @torch.no_grad()
    def materialize(self, i: int, module: nn.Module | None = None) -> nn.Module:
        """Member `i` as a plain module of the user's class, in evaluation mode.

        Args:
            i: Position of the member.
            module: A network of the same architecture to be filled in place; a copy of the template by default.

        Raises:
            ConfigError: There is no such member.
            GraphError: `module` is of another architecture; it stays as it was.
        """
        if not -self.size <= i < self.size:
            raise ConfigError(
                explain(f"a member from 0 to {self.size - 1}", str(i), "materialize", "count members from 0")
            )
        i %= self.size
        made = copy.deepcopy(self.template) if module is None else module
        own, given = weights_of(made), weights_of(self.template)
        differ = sorted(name for name in own.keys() | given.keys() if not _alike(own.get(name), given.get(name)))
        if differ:
            raise GraphError(
                explain(
                    f"a network of the architecture of {type(self.template).__name__}, whose members were drawn",
                    f"{type(made).__name__}, which differs in {', '.join(differ[:3])}",
                    "materialize",
                    "pass a network made by the same function, or none",
                )
            )
        weights = given | {name: part[0] for name, part in self._part(i, i + 1).items()}
        for name, tensor in own.items():
            tensor.copy_(weights[name])
        return made.eval()

    def _forget(self) -> None:
        """Weights that were drawn, and how they were computed, belong to the tensors they came from."""
        for name in ("_weights", "_callings", "_bytes_a_member"):
            vars(self).pop(name, None)

    def _apply(self, fn: Any, recurse: bool = True) -> "Drawn":
        self._forget()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **named)


def _alike(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and first.shape == second.shape


def _key(name: str) -> str:
    """Name of the buffer that holds a statistic; a module's own buffers may not have dots in their names."""
    return "statistics/" + name.replace(".", "/")


def _check_seeds(seeds: Sequence[int]) -> None:
    repeated = len(seeds) - len(set(seeds))
    if not seeds or repeated:
        got = f"{repeated} repeated seeds" if seeds else "none"
        raise ConfigError(
            explain(
                "different seeds, at least one", got, "seeds of an ensemble", "draw(k, seed) gives k different ones"
            )
        )

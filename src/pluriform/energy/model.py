"""`EnergyModel`: a classifier whose logits are also an unnormalised density of its inputs."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.axes import Inputs, Logits, Scores
from pluriform.data.signature import Signature
from pluriform.energy.buffer import ReplayBuffer
from pluriform.energy.langevin import Langevin, langevin
from pluriform.energy.score import Score, approximate_mass, log_density
from pluriform.errors import ConfigError, explain
from pluriform.fused.network import fusing_pays
from pluriform.graph.parameters import frozen, modes_kept
from pluriform.prediction import Prediction, Predictor

__all__ = ["EnergyModel"]

FRESH_ROUNDS = 50  # A new chain makes so many times the steps of one update.
CHAINS = 256  # At once.


class EnergyModel(Predictor):
    """p(y|x) = softmax f(x), log p(x) = logsumexp f(x) - log Z: `form.module` is of the user's own class.

    `prediction.score` is log p(x) up to a constant.

    Args:
        module: The fitted network.
        signature: Facts of the data it was fitted on.
        buffer: Chains at the end of training.
        sampler: Of those chains.
        conditional: Whether the blocks of the buffer are chains of log p(x, y) of their class.
        cost: Figures of the fit.
        history: Figures of every epoch, by name.
        events: Roll-backs of the training, as plain JSON.

    References:
        Grathwohl et al. 2020, Your Classifier is Secretly an Energy Based Model, arXiv:1912.03263.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        buffer: ReplayBuffer,
        sampler: Langevin,
        conditional: bool = False,
        cost: dict[str, float | int] | None = None,
        history: dict[str, list[float]] | None = None,
        events: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(signature)
        self.module, self.buffer, self.sampler, self.conditional = module, buffer, sampler, conditional
        self.cost, self.history, self.events = cost or {}, history or {}, events or []

    def forward(self, inputs: Inputs) -> Logits:
        """Logits f(x)."""
        return self.module(inputs)

    def predict_batch(self, inputs: Inputs) -> Prediction:
        """Class probabilities and log p(x) up to a constant."""
        logits = self(inputs)
        return Prediction(logits.softmax(-1), score=log_density(logits))

    def input_scores(self, inputs: Inputs) -> dict[str, Scores]:
        """`approximate_mass` of the inputs, in evaluation mode."""
        self.check_inputs(inputs, "input_scores")
        with modes_kept(self), frozen(self):
            self.eval()
            parts = [approximate_mass(self, part.to(self.device)) for part in inputs.split(self.batch_size)]
        return {"approximate_mass": torch.cat(parts)}

    def sample(
        self,
        n: int,
        label: int | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        fresh: bool | None = None,
    ) -> Inputs:
        """Draw inputs of p(x), or of p(x | label), by going on with chains of the buffer or from new ones.

        Args:
            n: Number of samples.
            label: Their class; `None` for the joint density of all.
            seed: Of all random numbers.
            steps: Langevin steps of a chain; one call's worth for chains of the buffer, 50 times that for new ones.
            fresh: New chains; by default where the buffer has no chains of that kind, or too few.

        Returns:
            `(n, *input_shape)`, within the bounds of the data where the sampler clamps its inputs.

        Raises:
            ConfigError: A label or n out of range, or more chains of the buffer than it has.
        """
        self._check(n, label)
        known = self._places(label)
        if fresh is None:
            fresh = n > len(known) or (label is not None and not self.conditional)
        if not fresh and n > len(known):
            got, remedy = f"{n}", "pass fresh=True, or ask for fewer"
            raise ConfigError(explain(f"at most {len(known)} chains of the buffer", got, "sample", remedy))
        generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.randperm(len(known), generator=generator, device=self.device)
        if fresh:
            labels = order.new_full((n,), label) if label is not None else self._labels(n, generator)
            start = torch.cat([self.buffer.start.draw(part, generator) for part in labels.split(CHAINS)])
        else:
            places = known[order[:n]]
            labels, start = places // self.buffer.block, self.buffer.samples[places]
        rounds = self.sampler.steps * (FRESH_ROUNDS if fresh else 1) if steps is None else steps
        by_class = label is not None or (self.conditional and not fresh)
        return self._chains(start, labels if by_class else None, rounds, generator)

    def refine(self, inputs: Inputs, *, steps: int | None = None, seed: int = 0) -> Inputs:
        """Move inputs towards higher log p(x) by the sampler; as many steps as in one update unless given."""
        self.check_inputs(inputs, "refine")
        generator = torch.Generator(self.device).manual_seed(seed)
        rounds = self.sampler.steps if steps is None else steps
        return self._chains(inputs.to(self.device), None, rounds, generator)

    def _chains(self, start: Tensor, labels: Tensor | None, steps: int, generator: torch.Generator) -> Tensor:
        setting, space, found = replace(self.sampler, steps=steps), self.buffer.space, []
        with modes_kept(self), frozen(self):
            self.eval()
            fused = fusing_pays(self.module, start[:1], 2 * steps * len(start))
            for place in torch.arange(len(start), device=self.device).split(CHAINS):
                own = None if labels is None else labels[place]
                found.append(
                    langevin(Score(self.module, own), start[place], setting, space, generator, fused=fused).inputs
                )
        return torch.cat(found)

    def _places(self, label: int | None) -> Tensor:
        places = torch.arange(len(self.buffer), device=self.device)
        return places if label is None else places[label * self.buffer.block : (label + 1) * self.buffer.block]

    def _labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.signature.outputs, (count,), generator=generator, device=self.device)

    def _check(self, count: int, label: int | None) -> None:
        if count < 1 or (label is not None and not 0 <= label < self.signature.outputs):
            expected = f"n of at least 1 and a label in 0..{self.signature.outputs - 1}, or None"
            got = f"n={count}, label={label}"
            raise ConfigError(explain(expected, got, "sample", "correct the arguments"))

"""Figures of drawn networks on the validation split, which choose the epoch that is kept."""

import math

import torch
from torch import Tensor, nn

from pluriform.data.data import Split, StreamSplit
from pluriform.ensemble.calling import Calling, by_count, call_members
from pluriform.ensemble.drawn import draw_seeds
from pluriform.ensemble.hypergan.generator import WeightGenerator
from pluriform.ensemble.hypergan.mixer import cross_covariance, moment_error
from pluriform.ensemble.statistics import statistics_copies
from pluriform.errors import GraphError
from pluriform.metrics.classification import nll_terms
from pluriform.metrics.diversity import weight_diversity
from pluriform.metrics.uncertainty import disagreement, mutual_information
from pluriform.training.feed import take
from pluriform.training.validation import Assessment

__all__ = ["Selection"]

DRAWS = 20
SAMPLES = 2000  # At most; an epoch of a small network must not be shorter than its validation.
BATCH = 500


class Selection:
    """Ensemble loss of a fixed set of draws on the validation split, with the diversity beside it.

    Classification: the negative log of the mean probability, which already rewards useful diversity. Regression: the
    squared error of the mean. The split is the first 2,000 of a random order.

    Args:
        template: The network that is drawn.
        generator: What draws.
        split: Validation samples; not empty.
        task: What is predicted.
        seed: Of the draws and of the order.
    """

    def __init__(
        self, template: nn.Module, generator: WeightGenerator, split: Split | StreamSplit, task: str, seed: int
    ) -> None:
        self.template, self.generator, self.task = template, generator, task
        self.seeds = draw_seeds(DRAWS, seed)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        self.inputs, self.targets = take(split, order[:SAMPLES])
        self.calling: Calling | None = None

    @torch.no_grad()
    def assess(self) -> Assessment:
        """Loss of the ensemble (what is selected on), its accuracy, and the figures of diversity."""
        weights = self.generator.draw(self.seeds)
        outputs = self._outputs(weights)
        targets = self.targets.to(outputs.device)
        spread = weight_diversity({name: value for name, value in weights.items() if value.dim() > 2} or weights)
        codes = self.generator.codes(self.generator.noise_of(draw_seeds(16 * self.generator.code_size, 0)))
        more = {
            "weight_spread": spread.mean_spread,
            "weight_distance": spread.distance,
            "code_moments": float(moment_error(codes)),
            "code_covariance": cross_covariance(codes),
        }
        if self.task != "classification":
            errors = (outputs - targets).square().mean((-2, -1))
            whole = (outputs.mean(0) - targets).square().mean()
            return Assessment(whole[None].cpu(), None, more | {"member_loss": float(errors.mean())})
        members = outputs.softmax(-1)
        mean = members.mean(0)
        more |= {
            "member_nll": float(torch.stack([nll_terms(p, targets) for p in members]).mean()),
            "member_accuracy": float((members.argmax(-1) == targets).float().mean()),
            "disagreement": float(disagreement(members).mean()),
            "mutual_information": float(mutual_information(members).mean()),
        }
        loss = nll_terms(mean, targets).mean().float()
        return Assessment(loss[None].cpu(), (mean.argmax(-1) == targets).float().mean()[None].cpu(), more)

    def _outputs(self, weights: dict[str, Tensor]) -> Tensor:
        """Outputs of all draws; BatchNorm takes statistics of the validation batch."""
        device = next(iter(weights.values())).device
        parts = self.inputs.chunk(math.ceil(len(self.inputs) / BATCH))  # Even ones: a lone sample has no statistics.
        self.calling = self.calling or self._counted(weights, parts[0].to(device))
        self.template.eval()
        weights = weights | statistics_copies(self.template, DRAWS)
        return torch.cat([call_members(self.template, weights, part.to(device), self.calling) for part in parts], 1)

    def _counted(self, weights: dict[str, Tensor], inputs: Tensor) -> Calling:
        """The calling by count, in evaluation mode, and whether it takes batch statistics, too."""
        self.template.eval()
        found = by_count(self.template, weights, inputs, DRAWS)
        try:
            call_members(self.template, weights | statistics_copies(self.template, DRAWS), inputs[:2], found)
        except GraphError as error:
            return Calling("loop", 1, False, str(error))
        return found

"""Loss and accuracy of a network, or of stacked members, on a split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pluriform.data.data import Split, StreamSplit
from pluriform.training.feed import take
from pluriform.training.loss import Loss

__all__ = ["Assessment", "assess", "looked_at_once", "residual_variance"]


def looked_at_once(device: torch.device) -> int:
    """Samples that go through a network together in evaluation: on a CPU few, as more take memory and no less time."""
    return 128 if device.type == "cpu" else 1000


@dataclass(frozen=True, eq=False)
class Assessment:
    """Figures of one pass over a split.

    Attributes:
        loss: Shape `(member,)`; one entry for one network.
        accuracy: Likewise; `None` in regression.
        more: Further figures for the log.
        criterion: What the best weights are chosen by, lower is better, shape `(member,)`; `None` for the loss.
    """

    loss: Tensor
    accuracy: Tensor | None
    more: Mapping[str, float] = field(default_factory=dict)
    criterion: Tensor | None = None

    def log(self) -> dict[str, float]:
        """Means over the members, by name."""
        found = {"validation_loss": float(self.loss.mean())}
        if self.accuracy is not None:
            found["validation_accuracy"] = float(self.accuracy.mean())
        return {**found, **self.more}


@torch.no_grad()
def assess(
    network: nn.Module, split: Split | StreamSplit, loss: Loss, device: torch.device, members: int | None = None
) -> Assessment:
    """Pass once over `split` in evaluation mode; the network is left in it."""
    network.eval()
    total, hits = torch.zeros(members or 1, device=device), torch.zeros(members or 1, device=device)
    for index in torch.arange(len(split)).split(looked_at_once(device)):
        inputs, targets = (part.to(device) for part in take(split, index))
        if members is not None:
            inputs, targets = (part.expand(members, *part.shape) for part in (inputs, targets))
        outputs = network(inputs)
        total += loss(outputs, targets) * len(index)
        if loss.task == "classification":
            hits += (outputs.argmax(-1) == targets).sum(-1)
    count = len(split)
    return Assessment(total.cpu() / count, hits.cpu() / count if loss.task == "classification" else None)


@torch.no_grad()
def residual_variance(network: nn.Module, split: Split | StreamSplit, device: torch.device) -> Tensor:
    """Mean squared error of each output, shape `(outputs,)`: the Gaussian noise variance of largest likelihood."""
    network.eval()
    squared = []
    for index in torch.arange(len(split)).split(looked_at_once(device)):
        inputs, targets = (part.to(device) for part in take(split, index))
        squared.append((network(inputs) - targets).square())
    return torch.cat(squared).mean(0)

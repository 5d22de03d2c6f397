"""Robust accuracy of a network in the midst of its training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pluriform.attacks.fgsm import fgsm
from pluriform.attacks.gradient import attack_mode, judge
from pluriform.attacks.pgd import pgd
from pluriform.attacks.threat import Threat
from pluriform.data.data import Split, StreamSplit
from pluriform.training.feed import take
from pluriform.training.loss import Loss
from pluriform.training.seeds import derive_seed
from pluriform.training.validation import Assessment, assess

__all__ = ["RobustValidation", "drawn", "fgsm_accuracy", "robust_accuracy"]

BATCH = 250
CHECKED = 1000
STEPS = 10


def drawn(split: Split | StreamSplit, count: int, seed: int, device: torch.device) -> Split:
    """At most `count` samples, drawn by seed: files are often sorted by class."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = take(split, torch.randperm(len(split), generator=generator)[:count])
    return Split(inputs.to(device), targets.to(device))


def robust_accuracy(network: nn.Module, samples: Split, threat: Threat, steps: int, seed: int = 0) -> float:
    """Share of samples that PGD from a random start leaves correctly classified.

    The network is attacked in evaluation mode; every mode and flag comes back.

    Args:
        network: Gives logits.
        samples: On its device.
        threat: With bounds.
        steps: Of PGD, each of 2.5 eps / steps.
        seed: Of the random starts.
    """
    return _left(network, samples, lambda inputs, labels: pgd(network, inputs, labels, threat, seed=seed, steps=steps))


def fgsm_accuracy(network: nn.Module, samples: Split, threat: Threat) -> float:
    """Share of samples that FGSM leaves correctly classified; as `robust_accuracy`."""
    return _left(network, samples, lambda inputs, labels: fgsm(network, inputs, labels, threat))


def _left(network: nn.Module, samples: Split, attack: Callable[[Tensor, Tensor], Tensor]) -> float:
    robust = 0
    with attack_mode(network):
        for inputs, labels in zip(samples.inputs.split(BATCH), samples.targets.split(BATCH), strict=True):
            robust += int((~judge(network, attack(inputs, labels), labels).broken).sum())
    return robust / len(samples)


class RobustValidation:
    """What a loop validates by: clean loss and accuracy, and PGD on at most 1,000 samples, which decides.

    Args:
        network: What is trained.
        attacked: The same, as its attacker computes it.
        split: Validation split.
        loss: Of clean samples.
        threat: With bounds.
        seed: Draws the samples and the random starts.
        device: Where to compute.
    """

    def __init__(
        self,
        network: nn.Module,
        attacked: nn.Module,
        split: Split | StreamSplit,
        loss: Loss,
        threat: Threat,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.attacked, self.split, self.loss = network, attacked, split, loss
        self.threat, self.device = threat, device
        self.seed = derive_seed(seed, "validated")
        self.samples = drawn(split, CHECKED, self.seed, device)

    def __call__(self) -> Assessment:
        """Figures of the network as it is, in evaluation mode; the best weights are those of most robust samples."""
        clean = assess(self.network, self.split, self.loss, self.device)
        robust = robust_accuracy(self.attacked, self.samples, self.threat, STEPS, self.seed)
        return Assessment(
            clean.loss, clean.accuracy, {"validation_robust_accuracy": robust}, criterion=torch.tensor([1 - robust])
        )

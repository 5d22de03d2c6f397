"""The rules of TSIT, SPADE and pix2pix: an adversarial loss with what holds content, truth and style."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.translate.discriminator import MultiScaleDiscriminator, PatchDiscriminator
from pluriform.translate.image_feed import ImageBatch
from pluriform.translate.losses import (
    Outputs,
    cross_entropy_discriminator,
    cross_entropy_generator,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    l1,
    least_squares_discriminator,
    least_squares_generator,
    perceptual,
    r1_penalty,
)
from pluriform.translate.perceptual import PerceptualExtractor
from pluriform.translate.structure import structure_loss
from pluriform.translate.told_apart import told_apart

__all__ = [
    "Adversarial",
    "CROSS_ENTROPY",
    "HINGE",
    "LEAST_SQUARES",
    "OneScale",
    "OneWayGame",
    "Sketch",
    "Weights",
]


@dataclass(frozen=True, eq=False)
class Adversarial:
    """An adversarial loss.

    Attributes:
        generator: Of the outputs for fakes.
        discriminator: Of those for real images and for fakes.
        threshold: Score between both.
    """

    generator: Callable[[Outputs], Tensor]
    discriminator: Callable[[Outputs, Outputs], Tensor]
    threshold: float = 0.0


HINGE = Adversarial(hinge_generator, hinge_discriminator)
CROSS_ENTROPY = Adversarial(cross_entropy_generator, cross_entropy_discriminator)
LEAST_SQUARES = Adversarial(least_squares_generator, least_squares_discriminator, 0.5)


@dataclass(frozen=True)
class Weights:
    """Of the parts of the generator's loss; the adversarial one has 1.

    Attributes:
        feature_matching: L1 on features of the discriminator.
        perceptual: L1 on features of a classifier.
        l1: To the truth, in [-1, 1].
        structure: Edges of the content, fine and coarse.
        kl: Of the encoder.
    """

    feature_matching: float = 1.0
    perceptual: float = 0.0
    l1: float = 0.0
    structure: float = 0.0
    kl: float = 0.0


@dataclass(frozen=True, eq=False)
class Sketch:
    """What a generator made of a batch.

    Attributes:
        image: In [-1, 1].
        kl: Of its encoder, where it has one.
    """

    image: Tensor
    kl: Tensor | None = None


class OneScale(nn.Module):
    """A patch discriminator as one of several scales.

    Args:
        network: Image to features of every layer and scores.
    """

    def __init__(self, network: PatchDiscriminator) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """As of `MultiScaleDiscriminator`."""
        return [self.network(images)]


class OneWayGame:
    """One generator from contents to targets, with what holds content and style.

    Args:
        generator: All that is trained against the discriminator.
        sketch: Batch and name of the player to what the generator makes of it.
        discriminator: Sees the content beside the image where `conditional`.
        weights: Of the losses.
        conditional: Whether targets are the truth of contents. If not, the perceptual loss is to the content.
        extractor: For the perceptual loss.
        adversarial: Loss.
    """

    def __init__(
        self,
        generator: nn.Module,
        sketch: Callable[[ImageBatch, str], Sketch],
        discriminator: MultiScaleDiscriminator | OneScale,
        weights: Weights,
        *,
        conditional: bool,
        extractor: PerceptualExtractor | None = None,
        adversarial: Adversarial = HINGE,
    ) -> None:
        self.adversarial = adversarial
        self.generator, self.sketch, self.discriminator = generator, sketch, discriminator
        self.weights, self.conditional, self.extractor = weights, conditional, extractor

    def generator_losses(self, batch: ImageBatch) -> dict[str, Tensor]:
        """The generator's loss and its parts, each with its weight."""
        sketch = self.sketch(batch, "generator")
        real, fake = self._judged(batch, sketch.image)
        parts = {"adversarial": self.adversarial.generator(fake)} | self._held(batch, sketch, real, fake)
        return {"generator": torch.stack(list(parts.values())).sum(), **parts}

    def fakes(self, batch: ImageBatch) -> dict[str, Tensor]:
        """The fake, drawn anew."""
        return {"image": self.sketch(batch, "discriminator").image}

    def discriminator_losses(self, batch: ImageBatch, fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The adversarial loss, and how well both are told apart."""
        real, fake = self._judged(batch, fakes["image"])
        apart = told_apart(real, fake, self.adversarial.threshold)
        return {"discriminator": self.adversarial.discriminator(real, fake), "told_apart": apart}

    def r1(self, batch: ImageBatch) -> Tensor:
        """Penalty on the real images; contents are only conditions."""
        return r1_penalty(lambda images: self.discriminator(self._seen(batch, images)), batch.target)

    def state(self) -> dict[str, Tensor]:
        """Nothing beside the networks."""
        return {}

    def _held(self, batch: ImageBatch, sketch: Sketch, real: Outputs, fake: Outputs) -> dict[str, Tensor]:
        """What holds content, truth and style, where its weight is above 0."""
        weights, parts = self.weights, {}
        if weights.feature_matching:
            parts["feature_matching"] = weights.feature_matching * feature_matching(real, fake)
        if weights.perceptual and self.extractor is not None:
            wanted = batch.target if self.conditional else batch.content
            found = perceptual(self.extractor, sketch.image, wanted, self.extractor.weights)
            parts["perceptual"] = weights.perceptual * found
        if weights.l1 and self.conditional:
            parts["l1"] = weights.l1 * l1(sketch.image, batch.target)
        if weights.structure and not self.conditional:
            parts["structure"] = weights.structure * structure_loss(sketch.image, batch.content)
        if sketch.kl is not None:
            parts["kl"] = weights.kl * sketch.kl
        return parts

    def _seen(self, batch: ImageBatch, images: Tensor) -> Tensor:
        return torch.cat([batch.content, images], 1) if self.conditional else images

    def _judged(self, batch: ImageBatch, image: Tensor) -> tuple[Outputs, Outputs]:
        """What the discriminator says of real and fake images, which it sees as one batch."""
        both = torch.cat([self._seen(batch, batch.target), self._seen(batch, image.to(batch.target.dtype))])
        found = self.discriminator(both)
        size = len(batch.target)
        return [[layer[:size] for layer in scale] for scale in found], [
            [layer[size:] for layer in scale] for scale in found
        ]

"""Digits in other looks, made in code: what is in the image is known, and so is the look.

`styles`: coloured and textured in four styles. `photographs`: on photographs of CIFAR-100, by the absolute difference
of both, as MNIST-M is made.

References:
    Ganin, Lempitsky 2015, Unsupervised Domain Adaptation by Backpropagation, arXiv:1409.7495 (MNIST-M).
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

import pluriform as pf
from pluriform.data.data import Data, Split
from pluriform.evaluation.subject import stratified_index

STYLES = ("stripes", "checks", "speckles", "gradient")
LOOKS = ("styles", "photographs")
DIGITS, HELD = 4000, 500
JUDGED = 4000
"""Test digits that classifiers are judged on."""


def styled(digits: Tensor, styles: Tensor, seed: int) -> Tensor:
    """Digits `(batch, 1, 32, 32)` in [0, 1] on textured grounds: `(batch, 3, 32, 32)` in [0, 1].

    A style is a texture with two colours of the ground and one of the stroke; hues vary a little from image to image,
    stripes and checks in their phase.

    Args:
        digits: White on black.
        styles: Which of the four, int64.
        seed: Of the variation.
    """
    generator = torch.Generator().manual_seed(seed)
    count, side = len(digits), digits.shape[-1]
    colours = torch.tensor(
        [
            [(0.10, 0.20, 0.55), (0.25, 0.45, 0.85), (1.00, 0.85, 0.20)],
            [(0.05, 0.35, 0.15), (0.30, 0.65, 0.30), (1.00, 0.55, 0.75)],
            [(0.85, 0.80, 0.70), (0.60, 0.55, 0.50), (0.55, 0.05, 0.10)],
            [(0.55, 0.10, 0.45), (0.95, 0.55, 0.25), (0.95, 1.00, 0.95)],
        ]
    )[styles]
    colours = (colours + 0.08 * (2 * torch.rand(count, 3, 3, generator=generator) - 1)).clamp(0, 1)
    places = torch.arange(side)
    phase = torch.randint(0, 8, (count, 1, 1), generator=generator)
    rows, columns = places[None, :, None] + phase, places[None, None, :] + phase
    ground = torch.stack(
        [
            ((rows + columns) // 3 % 2).float().expand(count, side, side),
            ((rows // 4 + columns // 4) % 2).float().expand(count, side, side),
            (torch.rand(count, side, side, generator=generator) < 0.25).float(),
            ((rows - phase) / (side - 1.0)).expand(count, side, side),
        ],
        1,
    )
    ground = ground[torch.arange(count), styles][:, None]
    first, second, stroke = (colours[:, place, :, None, None] for place in range(3))
    return digits * stroke + (1 - digits) * ((1 - ground) * first + ground * second)


def on_photographs(digits: Tensor, photographs: Tensor, seed: int) -> Tensor:
    """Absolute difference of digits `(batch, 1, 32, 32)` and photographs `(number, 3, 32, 32)`, all in [0, 1].

    Photographs are taken in a random order, again from its begin where there are fewer of them.
    """
    order = torch.randperm(len(photographs), generator=torch.Generator().manual_seed(seed))
    return (photographs[order[torch.arange(len(digits)) % len(order)]] - digits).abs()


@lru_cache(maxsize=1)
def digit_images() -> dict[str, tuple[Tensor, Tensor]]:
    """Digits with their labels: for contents, for targets, and for tests of both, no image twice; and `judged` ones.

    The judged ones are test digits too, many more of them, for classifiers that saw none.
    """
    whole = pf.load("mnist", validation=0)
    train = stratified_index(whole.train.targets, 2 * DIGITS, 0)
    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    test = stratified_index(whole.test.targets, 2 * HELD, 0)
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))]
    parts = {"content": (whole.train, train[:DIGITS]), "target": (whole.train, train[DIGITS:])}
    parts |= {"test content": (whole.test, test[:HELD]), "test target": (whole.test, test[HELD:])}
    parts["judged"] = (whole.test, stratified_index(whole.test.targets, JUDGED, 1))
    return {name: (F.pad(split.inputs[at], (2, 2, 2, 2)), split.targets[at]) for name, (split, at) in parts.items()}


def styles_of(part: str) -> Tensor:
    """Which style each target has."""
    return torch.arange(len(digit_images()[part][0])) % len(STYLES)


def seen_as(look: str, part: str, seed: int) -> Tensor:
    """The digits of a part in that look; `grey` is black and white in three channels."""
    digits = digit_images()[part][0]
    if look == "grey":
        return digits.expand(-1, 3, -1, -1).clone()
    if look == "styles":
        return styled(digits, styles_of(part), seed)
    whole = pf.load("cifar100-part", validation=0)
    return on_photographs(digits, (whole.train if part == "target" else whole.test).inputs, seed)


def unpaired_digits(look: str) -> Data:
    """Grey digits on one side, others in that look on the other."""
    names = STYLES if look == "styles" else ()

    def split(content: str, target: str, seed: int) -> Split:
        return Split(seen_as("grey", content, 0), seen_as(look, target, seed), styles_of(target) if names else None)

    train, test = split("content", "target", 0), split("test content", "test target", 1)
    empty = Split(train.inputs[:0], train.targets[:0], styles_of("target")[:0] if names else None)
    return Data(f"digits to {look}", "translation", train, empty, test, (), (0.0, 1.0), paired=False, styles=names)


def labelled_digits(look: str) -> Data:
    """Digits in one look with their labels: those of contents in grey, otherwise those of targets; test is `judged`."""
    part = "content" if look == "grey" else "target"
    train = Split(seen_as(look, part, 0), digit_images()[part][1])
    test = Split(seen_as(look, "judged", 2), digit_images()["judged"][1])
    empty = Split(train.inputs[:0], train.targets[:0])
    return Data(f"digits in {look}", "classification", train, empty, test, tuple(map(str, range(10))), (0.0, 1.0))

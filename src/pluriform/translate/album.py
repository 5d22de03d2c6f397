"""`Album`: translations of a few contents, kept over the training."""

import torch
from torch import Tensor, nn

from pluriform.data.data import Data, Split, StreamSplit
from pluriform.translate.scale import Scale
from pluriform.translate.translated import Painter, moments_of

__all__ = ["Album", "some_styles"]

CONTENTS = 4


class Album:
    """The first contents of the validation split, translated after the `moments_of` the training.

    Args:
        data: Data set; its test split is never looked at.
        scale: Of the data.
        painter: Translates.
        updates: Of the training.
        device: Where the painter computes.

    Attributes:
        moments: The place among the pictures of each update after which there are some.
        pictures: uint8, `(times, contents, channels, height, width)`.
    """

    def __init__(self, data: Data, scale: Scale, painter: Painter, updates: int, device: torch.device) -> None:
        split = data.validation if len(data.validation) else data.train
        inputs, targets = split.batch(torch.arange(min(CONTENTS, len(split))))
        self.painter = painter
        self.content = scale.content(inputs.to(device))
        self.style = scale.picture(targets.to(device))
        self.moments = {update: place for place, update in enumerate(moments_of(updates))}
        shape = (len(self.moments), len(inputs), scale.outputs, *inputs.shape[2:])
        self.pictures = torch.zeros(shape, dtype=torch.uint8)

    @torch.no_grad()
    def keep(self, done: int, generator: nn.Module) -> None:
        """Translate where it is time to, in evaluation mode; the generator's mode comes back."""
        if done not in self.moments:
            return
        generator.eval()
        style = self.painter.style_of(self.style) if self.painter.reads_style else None
        found = self.painter.eval()(self.content, style, 0, 1.0)
        self.pictures[self.moments[done]] = ((found.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        generator.train()
        self.painter.train()


def some_styles(data: Data, count: int, seed: int) -> Tensor:
    """Target images of the training split, of every style alike, drawn by seed."""
    split = data.train
    if isinstance(split, StreamSplit) or split.styles is None:
        size = len(split) if isinstance(split, StreamSplit) else len(split.targets)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]
        return split.batch(order)[1].clone() if isinstance(split, StreamSplit) else split.targets[order].clone()
    return _of_every_style(split, split.styles, count, seed)


def _of_every_style(split: Split, styles: Tensor, count: int, seed: int) -> Tensor:
    order = torch.randperm(len(styles), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(order)
    for style in styles.unique():
        own = order[styles[order] == style]
        rank[own] = torch.arange(len(own))
    return split.targets[order[rank[order].argsort(stable=True)][:count]].clone()

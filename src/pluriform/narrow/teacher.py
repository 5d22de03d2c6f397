"""`Teacher`: what a trained network says about the samples of a feed, computed with each batch or once for all."""

import logging

import torch
from torch import Tensor, nn

from pluriform.errors import MemoryBudgetError, explain
from pluriform.training.feed import Batch, Feed, take
from pluriform.training.layout import to_channels_last

__all__ = ["CACHE_BYTES", "Teacher"]

CACHE_BYTES = 2**28
BATCH = 250


class Teacher:
    """Outputs of a network for batches of a feed, in evaluation mode, without gradients, in float32.

    Its parameters and buffers never change; their layout in memory may.

    Args:
        network: Gives one tensor with the batch axis first (logits, or activations of a block).
        feed: The batches, and the training split.
        cache_bytes: Memory for the outputs of the whole training split. They are computed once then; 0 computes them
            with each batch, and so does augmentation, under which outputs of a sample differ from epoch to epoch.
        strict: Refuse outputs that need more; otherwise they are computed with each batch too.

    Raises:
        MemoryBudgetError: The outputs need more than that; known before they are computed.
    """

    def __init__(self, network: nn.Module, feed: Feed, *, cache_bytes: int = CACHE_BYTES, strict: bool = True) -> None:
        self.network, self.feed = network.eval(), feed
        self.memory_format = torch.contiguous_format
        sample = feed.sample()
        if to_channels_last(network, sample):
            self.memory_format = torch.channels_last
        self.shape = tuple(self._outputs(sample).shape[1:])
        self.cache: Tensor | None = None
        if cache_bytes and feed.augmentation.active:
            logging.getLogger("pluriform").info("outputs of the wide network are computed anew: inputs are augmented")
        elif cache_bytes and self._fits(cache_bytes, strict):
            self.cache = self._all()

    def __call__(self, batch: Batch) -> Tensor:
        """The outputs for one batch, on the device of the feed."""
        if self.cache is None or batch.index is None:
            return self._outputs(batch.inputs)
        index = batch.index.to(self.cache.device)
        return self.cache.index_select(0, index.flatten()).unflatten(0, index.shape)

    @torch.no_grad()
    def _outputs(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.contiguous(memory_format=self.memory_format)).detach().float()

    def _all(self) -> Tensor:
        cache = torch.empty(len(self.feed.split), *self.shape, device=self.feed.device)
        for index in torch.arange(len(cache)).split(BATCH):
            cache[index[0] : index[-1] + 1] = self._outputs(take(self.feed.split, index)[0].to(self.feed.device))
        return cache

    def _fits(self, cache_bytes: int, strict: bool) -> bool:
        needed = 4 * len(self.feed.split) * torch.Size(self.shape).numel()
        if needed > cache_bytes and strict:
            got = f"outputs of shape {self.shape} for {len(self.feed.split)} samples, {needed:,} bytes in float32"
            remedy = f"set cache_bytes to {needed}, or to 0 to compute them with each batch"
            raise MemoryBudgetError(
                explain(f"at most {cache_bytes:,} bytes for the cache", got, "cache of the wide network", remedy)
            )
        return needed <= cache_bytes

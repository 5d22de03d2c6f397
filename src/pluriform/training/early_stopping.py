"""Early stopping on validation, for one network or for each of several stacked ones."""

import torch
from torch import Tensor

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Keeps the weights of the lowest validation loss and says when to stop.

    Stacked members are judged one by one: a member that has stopped keeps its best weights while others go on.

    Args:
        weights: The network's tensors by name, with a leading member axis where `members` is given.
        patience: Epochs without a lower loss after which a member stops.
        members: Number of stacked members; `None` for one network.
    """

    def __init__(self, weights: dict[str, Tensor], patience: int, members: int | None) -> None:
        self.patience, self.stacked = patience, members is not None
        self.best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.loss = torch.full((members or 1,), torch.inf)
        self.stale = torch.zeros(members or 1, dtype=torch.int64)

    @property
    def stopped(self) -> bool:
        """Whether no member goes on."""
        return bool((self.stale >= self.patience).all())

    @torch.no_grad()
    def update(self, loss: Tensor, weights: dict[str, Tensor]) -> None:
        """Take in the validation loss of each member, shape `(member,)`, and the weights it was measured with."""
        running = self.stale < self.patience
        better = running & (loss < self.loss)
        self.loss = torch.where(better, loss, self.loss)
        self.stale = torch.where(better, 0, torch.where(running, self.stale + 1, self.stale))
        for name, tensor in weights.items():
            if self.stacked:
                for member in better.nonzero().flatten().tolist():
                    self.best[name][member].copy_(tensor[member])
            elif better.any():
                self.best[name].copy_(tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps."""
        return {f"weights/{name}": t for name, t in self.best.items()} | {"loss": self.loss, "stale": self.stale}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.loss, self.stale = tensors["loss"], tensors["stale"]
        for name, tensor in self.best.items():
            tensor.copy_(tensors[f"weights/{name}"])

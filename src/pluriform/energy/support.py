"""`SupportModel`: a classifier whose logits also tell data from what climbs towards them."""

import torch
from torch import Tensor

from pluriform.axes import Inputs
from pluriform.energy.model import CHAINS, EnergyModel
from pluriform.errors import ConfigError, explain

__all__ = ["SupportModel"]


class SupportModel(EnergyModel):
    """p(y|x) = softmax f(x), p(datum | x) = sigma(logsumexp f(x)): `form.module` is of the user's own class.

    `prediction.score` is logsumexp f(x), the log-odds of a datum against a contrastive sample. At the optimum it is
    log p(x) - log q(x), where q is the density of those samples: it tells where the data are, not how dense they lie
    there, and is not log p(x) up to a constant. The buffer holds one seed of each class.

    Attributes:
        score_name: What the score is called where it is shown.
    """

    score_name = "log-odds of data against samples"

    def sample(
        self,
        n: int,
        label: int | None = None,
        *,
        seed: int = 0,
        steps: int | None = None,
        fresh: bool | None = None,
    ) -> Inputs:
        """Let new seeds climb towards a class by steps of one length.

        Args:
            n: Number of samples.
            label: The class that they climb to; `None` draws one for each.
            seed: Of all random numbers.
            steps: Of the climb; as many as at the end of the training unless given. 0 gives the seeds.
            fresh: `False` is refused: there are no chains to go on with.

        Returns:
            `(n, *input_shape)`, within the bounds of the data.

        Raises:
            ConfigError: A label or n out of range, or `fresh=False`.
        """
        self._check(n, label)
        if fresh is False:
            remedy = "leave fresh at None"
            raise ConfigError(explain("new samples: this form keeps no chains", "fresh=False", "sample", remedy))
        generator = torch.Generator(self.device).manual_seed(seed)
        labels = self._labels(n, generator) if label is None else self._all(n, label)
        start = torch.cat([self.buffer.start.draw(part, generator) for part in labels.split(CHAINS)])
        return self._chains(start, labels, self.sampler.steps if steps is None else steps, generator)

    def _all(self, count: int, label: int) -> Tensor:
        return torch.full((count,), label, dtype=torch.int64, device=self.device)

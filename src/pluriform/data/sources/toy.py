"""A regression in one dimension, to see predictive bands."""

import numpy as np
import torch

from pluriform.data.data import Split
from pluriform.data.parts import Parts
from pluriform.data.sources.request import Request

__all__ = ["toy_1d"]

NOISE = 0.1
SAMPLES = 120


def toy_1d(request: Request) -> Parts:
    """Noisy `y = sin(4 x) + x / 2` (deviation 0.1), seen on [-1.5, -0.5] and [0.5, 1.5] only.

    The test part covers [-1.5, 1.5] with the gap: a form that knows what it does not know has wide bands there. The
    same samples for every seed.

    References:
        After Foong, Li, Hernandez-Lobato, Turner 2019. 'In-Between' Uncertainty in Bayesian Neural Networks.
        arXiv:1906.11537.
    """
    random = np.random.default_rng(1)
    seen = random.uniform(0.5, 1.5, SAMPLES) * np.where(np.arange(SAMPLES) % 2, 1.0, -1.0)
    train, test = (_noisy(random, inputs) for inputs in (seen, np.linspace(-1.5, 1.5, SAMPLES)))
    return Parts(request.name, "regression", train, test)


def _noisy(random: np.random.Generator, inputs: np.ndarray) -> Split:
    targets = np.sin(4 * inputs) + inputs / 2 + random.normal(0, NOISE, len(inputs))
    return Split(*(torch.from_numpy(values.astype(np.float32))[:, None] for values in (inputs, targets)))

"""What a network is expected to reach once the end of a search has trained it on.

    error after training / error now = ((epochs + further epochs) / epochs) ^ -1/4

In a hurry a score says mostly how long a network was trained, its ancestors included, and a dear network is trained on
for a few epochs only. So networks are compared by where the end would take them: where there is plenty of time, that is
nearly their score. The exponent is near that of three layers on FashionMNIST, in trials at different rates: 13 % of
validation errors after one epoch, 6.7 % after eleven.

References:
    Domhan, Springenberg, Hutter 2015, Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by
    Extrapolation of Learning Curves (power laws among eleven families).
"""

from dataclasses import dataclass

from pluriform.search.choice import score_of
from pluriform.search.ending import seconds_a_step
from pluriform.search.journal import Trial
from pluriform.search.surrogate import Belief

__all__ = ["Projection"]

EXPONENT = 0.25


@dataclass(frozen=True)
class Projection:
    """Scores after the end of a search.

    Args:
        seconds: Of the end; 0 leaves scores as they are.
        full: Steps of an epoch.
        perfect: The score without an error: 1 of an accuracy, 0 of minus the root mean squared error.
        max_latency: That the result may have, in ms; what is slower has a lower score.

    Example:
        >>> projection = Projection(seconds=300.0, full=100, perfect=1.0)
        >>> projection.factor(epochs=2.0, step_seconds=0.1)  # 30 epochs more
        0.5
    """

    seconds: float | int
    full: int
    perfect: float | int
    max_latency: float | int | None = None

    def factor(self, epochs: float | int, step_seconds: float | int) -> float:
        """Error after the end, in units of the error now.

        Args:
            epochs: Of the network and its ancestors so far.
            step_seconds: What a step of it takes.
        """
        if not self.seconds or epochs <= 0:
            return 1.0
        further = self.seconds / (self.full * step_seconds)
        return ((epochs + further) / epochs) ** -EXPONENT

    def factor_of(self, trial: Trial) -> float:
        """The factor of a finished trial."""
        return self.factor(trial.figures["total_epochs"], seconds_a_step(trial.figures, self.full))

    def value(self, trial: Trial) -> float:
        """The score of a finished trial after the end, lower by as much as the network is too slow."""
        most = self.max_latency
        slow = 0.0 if most is None else max(0.0, trial.figures["latency"] / most - 1.0)
        return self.perfect - (self.perfect - score_of(trial)) * self.factor_of(trial) - slow

    def now(self, belief: Belief, factor: float | int) -> dict[str, float]:
        """What a belief about one value says of the score before the end."""
        mean, deviation = float(belief.mean[0]), float(belief.deviation[0])
        return {"predicted": self.perfect - (self.perfect - mean) / factor, "deviation": deviation / factor}

"""Training in function space under any loss: gradient flow, gradient descent and momentum with a fixed kernel.

    flow        df/dt = -rate Theta_.X grad L(f_X)
    momentum    df/ds = q,   dq/ds = -Theta_.X grad L(f_X) - (1 - mu) / sqrt(rate) q,   s = sqrt(rate) t
    steps       f <- f - rate Theta_.X grad L(f_X)

at training points `X` and at any others together. The flow and momentum are ordinary differential equations solved
with adaptive steps; the state that comes back is a start to go on from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pluriform.axes import Labels
from pluriform.errors import ConfigError, DivergenceError, ShapeError, explain
from pluriform.gaussian_process.exact import Cross, Outputs, Square

__all__ = ["Loss", "State", "cross_entropy", "descend", "evolve", "squared_error", "start"]

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class State:
    """Where training stands; every function here gives one and takes one to go on.

    Attributes:
        time: Training time, in steps of size one.
        train: Outputs at the training points, `(n, outputs)`.
        test: Outputs at other points, `(m, outputs)`; `m` may be 0.
        train_velocity: `q` at the training points, 0 at rest.
        test_velocity: `q` at the other points.
    """

    time: float
    train: Outputs
    test: Float[Tensor, "m outputs"]
    train_velocity: Outputs
    test_velocity: Float[Tensor, "m outputs"]


def start(train: Outputs, test: Float[Tensor, "m outputs"] | None = None) -> State:
    """The state at time 0, at rest.

    Args:
        train: Outputs of the untrained network at the training points; zeros for the mean of the ensemble.
        test: The same at other points.
    """
    train = train.detach().double()
    test = train.new_zeros(0, train.shape[1]) if test is None else test.detach().double()
    return State(0.0, train, test, torch.zeros_like(train), torch.zeros_like(test))


def squared_error(targets: Outputs) -> Loss:
    """`|f - Y|^2 / (2 N O)`, the loss of the closed form."""
    return lambda outputs: ((outputs - targets) ** 2).sum() / (2 * targets.numel())


def cross_entropy(labels: Labels) -> Loss:
    """Mean cross-entropy of the softmax of the outputs."""
    return lambda outputs: torch.nn.functional.cross_entropy(outputs, labels)


def evolve(
    ntk: Square,
    loss: Loss,
    state: State,
    time: float | int,
    *,
    cross: Cross | None = None,
    learning_rate: float | int = 1.0,
    momentum: float | int | None = None,
    tolerance: float = 1e-6,
) -> State:
    """Follow gradient flow, or heavy-ball momentum, on any loss up to a time.

    Args:
        ntk: `Theta` of the training points, `(n, n)`.
        loss: Differentiable; takes `(n, outputs)` and gives a number. `cross_entropy(labels)` and
            `squared_error(targets)` are two.
        state: `start(...)`, or what an earlier call gave.
        time: Time to arrive at, in steps of gradient descent; not before the state's.
        cross: `Theta` of other points with the training points, `(m, n)`; needed where the state has such points.
        learning_rate: Size of a step.
        momentum: `mu`, from 0 to below 1; `None` is plain flow, the limit of small steps. With momentum the equation
            follows steps of the given size.
        tolerance: Relative error allowed in each step of the solver; the absolute one is a thousandth of it.

    Returns:
        The state at that time.

    Raises:
        ConfigError: A time before the state's, a learning rate of 0 or less, or a momentum outside 0 to 1.
        ShapeError: Kernels that do not fit the state.
        DivergenceError: The solver failed, or left the finite numbers.

    References:
        Lee, Xiao, et al. 2019, Wide Neural Networks of Any Depth Evolve as Linear Models, arXiv:1902.06720.
        Qian 1999, On the momentum term in gradient descent learning algorithms (the continuous form).

    Example:
        >>> theta = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> made = evolve(theta, cross_entropy(torch.tensor([0, 1])), start(torch.zeros(2, 2)), 50.0)
        >>> made.train.softmax(1).argmax(1)
        tensor([0, 1])
    """
    from scipy.integrate import solve_ivp

    _check(ntk, cross, state, float(time), float(learning_rate), momentum)
    theta, speed = _stacked(ntk, cross), float(learning_rate)
    n, shape = len(state.train), (len(theta), state.train.shape[1])
    scale = 1.0 if momentum is None else speed**0.5
    friction = 0.0 if momentum is None else (1.0 - momentum) / scale

    def velocity(_: float, flat: object) -> object:
        value = torch.as_tensor(flat, dtype=torch.float64, device=theta.device)
        parts = value.reshape(-1, *shape)
        force = -theta @ _gradient(loss, parts[0][:n])
        if momentum is None:
            return (speed * force).flatten().cpu().numpy()
        return torch.stack([parts[1], force - friction * parts[1]]).flatten().cpu().numpy()

    first = _joined(state, momentum is not None)
    span = (scale * state.time, scale * float(time))
    if span[0] == span[1]:
        return state
    solved = solve_ivp(
        velocity, span, first.flatten().cpu().numpy(), method="DOP853", rtol=tolerance, atol=1e-3 * tolerance
    )
    last = torch.as_tensor(solved.y[:, -1], device=theta.device).reshape(-1, *shape)
    if not solved.success or not bool(last.isfinite().all()):
        remedy = "check the loss and the kernel for NaN, or take a smaller learning rate"
        raise DivergenceError(explain("a finite path", str(solved.message), f"evolve to time {time:g}", remedy))
    return _split(last, n, float(time))


def descend(
    ntk: Square,
    loss: Loss,
    state: State,
    steps: int,
    *,
    cross: Cross | None = None,
    learning_rate: float | int = 1.0,
    momentum: float | int = 0.0,
) -> State:
    """Gradient descent with whole steps, as a training loop takes them.

        q <- mu q - sqrt(rate) Theta_.X grad L,   f <- f + sqrt(rate) q

    Args:
        ntk: `Theta` of the training points, `(n, n)`.
        loss: As for `evolve`.
        state: `start(...)`, or what an earlier call gave.
        steps: How many.
        cross: `Theta` of other points with the training points, `(m, n)`.
        learning_rate: Size of a step; see `max_learning_rate` for squared error.
        momentum: Heavy-ball coefficient `mu`, as in `torch.optim.SGD`.

    Raises:
        ConfigError: Fewer than 0 steps, a learning rate of 0 or less, or a momentum outside 0 to 1.
        ShapeError: Kernels that do not fit the state.
        DivergenceError: The outputs left the finite numbers.
    """
    _check(ntk, cross, state, state.time + steps, float(learning_rate), momentum)
    theta, n, root = _stacked(ntk, cross), len(state.train), float(learning_rate) ** 0.5
    outputs, speed = _joined(state, True)
    for step in range(steps):
        speed = momentum * speed - root * theta @ _gradient(loss, outputs[:n])
        outputs = outputs + root * speed
        if step % 100 == 99 or step == steps - 1:
            _check_finite(outputs, step + 1)
    return _split(torch.stack([outputs, speed]), n, state.time + steps)


def _gradient(loss: Loss, outputs: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_(True)
        return torch.autograd.grad(loss(leaf), leaf)[0]


def _stacked(ntk: Tensor, cross: Tensor | None) -> Tensor:
    parts = [ntk] if cross is None else [ntk, cross]
    return torch.cat([part.detach().double() for part in parts])


def _joined(state: State, moving: bool) -> Tensor:
    outputs = torch.cat([state.train, state.test])
    if not moving:
        return outputs[None]
    return torch.stack([outputs, torch.cat([state.train_velocity, state.test_velocity])])


def _split(parts: Tensor, n: int, time: float) -> State:
    speed = parts[1] if len(parts) > 1 else torch.zeros_like(parts[0])
    return State(time, parts[0][:n], parts[0][n:], speed[:n], speed[n:])


def _check_finite(outputs: Tensor, steps: int) -> None:
    if not bool(outputs.isfinite().all()):
        remedy = "take a smaller learning rate: max_learning_rate gives the largest for squared error"
        raise DivergenceError(explain("finite outputs", "NaN or infinity", f"descend, step {steps}", remedy))


def _check(
    ntk: Tensor, cross: Tensor | None, state: State, time: float, rate: float, momentum: float | int | None
) -> None:
    if not rate > 0:
        raise ConfigError(explain("a learning rate above 0", f"{rate}", "training", "give another learning rate"))
    if not time >= state.time:
        remedy = "give a later time, or start again"
        raise ConfigError(explain(f"a time of {state.time:g} or more", f"{time:g}", "training", remedy))
    if momentum is not None and not 0 <= momentum < 1:
        raise ConfigError(explain("momentum from 0 to below 1", f"{momentum}", "training", "give another momentum"))
    n, m = len(state.train), len(state.test)
    rows = 0 if cross is None else len(cross)
    if ntk.shape != (n, n) or rows != m or (cross is not None and cross.shape[1] != n):
        got = f"{tuple(ntk.shape)} and {None if cross is None else tuple(cross.shape)}"
        remedy = "pass the kernels of the points that the state holds"
        raise ShapeError(explain(f"kernels ({n}, {n}) and ({m}, {n})", got, "training", remedy))

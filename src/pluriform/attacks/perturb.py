"""`perturb`: one attack on all inputs, and the checks of what it is given and gives."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pluriform.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from pluriform.attacks.fab import fab, fab_targeted
from pluriform.attacks.fgsm import fgsm
from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.pgd import pgd
from pluriform.attacks.square import square
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels
from pluriform.errors import ConfigError, LabelError, NonFiniteError, PluriformError, ShapeError, explain
from pluriform.fused.network import fused_network
from pluriform.prediction import Predictor

__all__ = [
    "ATTACKS",
    "AUTO_ATTACK",
    "BATCH",
    "check_finite",
    "check_options",
    "labelled",
    "module_of",
    "passes",
    "perturb",
]

BATCH = 256
AUTO_ATTACK = "autoattack"
ATTACKS: Mapping[str, Callable[..., Inputs]] = {
    "apgd-ce": apgd_ce,
    "apgd-dlr": apgd_dlr,
    "apgd-t": apgd_t,
    "fab": fab,
    "fab-t": fab_targeted,
    "fgsm": fgsm,
    "pgd": pgd,
    "square": square,
}


class _Called(nn.Module):
    """A function in the place of a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def module_of(form: Any) -> nn.Module:
    """The form itself, or a function as a module.

    Raises:
        ConfigError: It cannot be called.
    """
    if isinstance(form, nn.Module):
        return form
    if not callable(form):
        got = type(form).__name__
        raise ConfigError(explain("a form, a module or a function of inputs", got, "attack", "pass what gives logits"))
    return _Called(form)


def labelled(form: nn.Module, x: Any, y: Any, where: str) -> tuple[Inputs, Labels]:
    """Inputs without their graph and labels as int64, held against one another and against what a form gives for one.

    Raises:
        ShapeError: They are no tensors of numbers and classes, differ in number, or the form does not take them or
            gives no logits.
        LabelError: Labels outside the classes.
        NonFiniteError: The logits are NaN or infinite.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or not isinstance(y, Tensor):
        got = " and ".join(str(v.dtype) if isinstance(v, Tensor) else type(v).__name__ for v in (x, y))
        remedy = "write torch.as_tensor(x).float() and torch.as_tensor(y)"
        raise ShapeError(explain("a floating-point tensor of inputs and a tensor of labels", got, where, remedy))
    if x.element_size() < 4:
        remedy = "pass x.float() and network.float(): in 16 bits small steps and gradients round to nothing"
        raise ShapeError(explain("inputs of 32 or 64 bits", str(x.dtype), where, remedy))
    if len(x) != y.shape[:1].numel() or len(x) == 0:
        got = f"{len(x)} inputs, {y.shape[:1].numel()} labels"
        raise ShapeError(explain("a label for each input, at least one", got, where, "pass both of the same batch"))
    if y.is_floating_point() or y.is_complex() or y.dim() != 1:
        got = f"{y.dtype} of shape {tuple(y.shape)}"
        raise ShapeError(explain("integer labels of shape (batch,)", got, where, "pass true classes"))
    classes, y = _classes(form, x[:1].detach(), where), y.long()
    if int(y.min()) < 0 or int(y.max()) >= classes:
        got = f"labels from {int(y.min())} to {int(y.max())}"
        raise LabelError(explain(f"labels in 0..{classes - 1}", got, where, "pass true classes"))
    return x.clone() if x.is_inference() else x.detach(), y.to(x.device)  # In inference mode there is no gradient.


def _classes(form: nn.Module, sample: Tensor, where: str) -> int:
    """How many logits a form gives for one input."""
    if isinstance(form, Predictor):
        form.check_inputs(sample, where)
    tensor, name = next(form.parameters(), next(form.buffers(), sample)), f"{where} of {type(form).__name__}"
    try:
        with attack_mode(form), torch.no_grad():
            outputs: Any = form(sample.to(tensor.device))
    except (PluriformError, NotImplementedError):
        raise
    except Exception as error:
        expected = f"a network that takes inputs of shape (batch, {', '.join(map(str, sample.shape[1:]))})"
        remedy = f"pass inputs of the shape and type that it takes; these are {sample.dtype}"
        raise ShapeError(explain(f"{expected} and {sample.dtype}", f"{error}", name, remedy)) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != 1 or outputs.shape[1] < 2:
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        remedy = "wrap it in a module that returns a logit for each class, at least two"
        raise ShapeError(explain("logits of shape (batch, classes) for a batch of 1", got, name, remedy))
    check_finite(outputs, name)
    return outputs.shape[1]


def check_finite(outputs: Tensor, where: str) -> None:
    """Refuse logits of unperturbed inputs that say nothing.

    Raises:
        NonFiniteError: NaN or infinity among them; minus infinity is the logit of what cannot be.
    """
    if not bool((outputs < torch.inf).all()):
        remedy = "look for NaN among its weights, logarithms and divisions"
        raise NonFiniteError(explain("finite logits", "NaN or infinity", where, remedy))


def passes(method: str, **options: Any) -> int:
    """Forwards and backwards that an attack spends on a sample which stands to the end; options as in `attack`."""
    given = {name: known.default for name, known in inspect.signature(ATTACKS[method]).parameters.items()} | options
    times = math.prod(int(given.get(name, 1)) for name in ("restarts", "targets", "eot"))
    return times * int(given["queries"] if "queries" in given else 2 * given.get("steps", 1))


def check_options(method: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Refuse options that an attack does not take.

    Raises:
        ConfigError: With the first of them.
    """
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(explain(f"options of {method} ({', '.join(known)})", unknown[0], "attack", "rename it"))


def perturb(
    form: nn.Module,
    x: Inputs,
    y: Labels,
    threat: Threat,
    method: str = "pgd",
    seed: int = 0,
    work: int | None = None,
    **options: Any,
) -> Inputs:
    """`attack` without the checks of its arguments; the result is still held against the threat.

    Where much is to be computed, fused kernels compute a network that they know (`fused_network`); `work` are the
    passes of all samples in all calls that belong together, those of this one unless given.
    """
    if method not in ATTACKS:
        expected = f"one of {', '.join(sorted([*ATTACKS, AUTO_ATTACK]))}"
        raise ConfigError(explain(expected, repr(method), "attack", "name one of these attacks"))
    check_options(method, options, list(inspect.signature(ATTACKS[method]).parameters)[4:])
    if threat.eps == 0:
        return x.clone()
    tensor = next(form.parameters(), next(form.buffers(), x))
    size = form.batch_size if isinstance(form, Predictor) else BATCH
    work = len(x) * passes(method, **options) if work is None else work
    with attack_mode(form):
        network = fused_network(form, x[:1].to(tensor.device), work)
        parts = [
            ATTACKS[method](network, inputs.to(tensor.device), labels.to(tensor.device), threat, seed=seed, **options)
            for inputs, labels in zip(x.detach().split(size), y.split(size), strict=True)
        ]
    moved = torch.cat(parts).to(x.device)
    threat.check(moved, x)
    return moved

"""`auto_attack`: the worst case of a suite of attacks, resumed where it was killed."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from pluriform.attacks.gradient import attack_mode
from pluriform.attacks.masking import Flag, masking_flags
from pluriform.attacks.perturb import ATTACKS, check_finite, labelled, module_of, passes, perturb
from pluriform.attacks.suite import Suite, auto_attack_suite
from pluriform.attacks.threat import Threat, check_scale, resolve_threat
from pluriform.axes import Inputs
from pluriform.errors import ConfigError, explain
from pluriform.graph.fingerprint import fingerprint, tensor_fingerprint
from pluriform.progress import Advance, progress
from pluriform.runs import Run

__all__ = ["CLEAN", "STANDS", "Stage", "WorstCase", "auto_attack"]

BATCH = 256
STANDS, CLEAN = -1, -2
FLAGGED = 100
BLIND = 0.002  # Share of samples that Square may break after the gradient attacks.
STATE = "state.safetensors"


@dataclass(frozen=True)
class Stage:
    """What one attack of a suite did.

    Attributes:
        attack: Its name.
        attacked: Samples that still stood.
        broken: Samples that it broke.
        seconds: Of wall-clock time.
    """

    attack: str
    attacked: int
    broken: int
    seconds: float


@dataclass(frozen=True, eq=False)
class WorstCase:
    """What a suite left.

    Attributes:
        inputs: Perturbed inputs of broken samples, other samples as they were; `(batch, *input_shape)`.
        by: Place in the suite of the attack that broke a sample; `STANDS`, or `CLEAN` if it was wrong unperturbed.
        suite: What was run.
        stages: Of each attack.
        threat: With bounds.
        flags: What speaks against the gradients that the attacks follow, and so against the figures: the signs of
            `masking_flags` that take no search, on the first hundred samples (or `batch_size`), and Square breaking
            over 0.2 % of all samples among those that the attacks before it left. Empty for an honest form.
    """

    inputs: Inputs
    by: Int[Tensor, "batch"]
    suite: Suite
    stages: tuple[Stage, ...]
    threat: Threat
    flags: tuple[Flag, ...]

    @property
    def standing(self) -> Bool[Tensor, "batch"]:
        """Samples that are classified correctly wherever the attacks looked."""
        return self.by == STANDS

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are classified correctly unperturbed."""
        return float((self.by != CLEAN).double().mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that stand."""
        return float(self.standing.double().mean())


def auto_attack(
    form: nn.Module | Callable[[Tensor], Tensor],
    x: Inputs,
    y: Tensor,
    threat: Threat,
    suite: Suite | Literal["standard", "plus", "rand"] = "standard",
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    run: Path | str | None = None,
) -> WorstCase:
    """The worst case of AutoAttack, or of another suite: each attack takes the samples that still stand.

    A sample counts as broken only when the form, asked again, gets the returned input wrong. With a run folder every
    finished batch is kept, and a later call goes on there to the same result.

    Args:
        form: A form, or any module or differentiable function that gives logits; normalisation belongs inside it.
        x: Inputs inside the bounds, `(batch, *input_shape)`.
        y: True classes, integers of shape `(batch,)`.
        threat: Norm and radius, and the bounds where the form carries none.
        suite: A kind of AutoAttack, cut down for fewer than 4 classes, or a suite of one's own.
        seed: Of all random numbers.
        batch_size: Samples attacked at once.
        run: A folder for the state; another form, data, suite or seed is refused there.

    Raises:
        ConfigError: No such suite, an unknown attack in it, a radius in the wrong scale, or a run of a function.
        BoundsError: Bounds unknown, or left by the inputs.
        ShapeError: Inputs and labels differ in number or are none, or the form does not take them or gives no logits.
        LabelError: Labels outside the classes.
        NonFiniteError: The form gives NaN or infinity for some input.
        RunConflictError: The folder holds the state of another call.

    References:
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks, arXiv 2003.01690.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(8, 1, 2, 2)
        >>> worst = auto_attack(net, x, net(x).argmax(1), Threat("l2", 0.5, (0, 1)))
        >>> worst.clean_accuracy, worst.suite.note
        (1.0, '2 classes: without apgd-t; fab for fab-t')
    """
    if run is not None and not isinstance(form, nn.Module):
        remedy = "wrap the function in a module that holds its networks, or leave run out"
        raise ConfigError(explain("a module, whose weights a run can note", "a function", "auto_attack", remedy))
    form = module_of(form)
    x, y = labelled(form, x, y, "auto_attack")
    threat = resolve_threat(form, threat, x)
    check_scale(threat, x[0].numel())
    if isinstance(suite, Suite):
        _check_suite(suite, run is not None)
    if batch_size < 1:
        raise ConfigError(explain("batch_size >= 1", f"{batch_size}", "auto_attack", "raise it"))
    if not isinstance(suite, Suite):
        with attack_mode(form), torch.no_grad():
            classes = form(x[:1].to(_place(form, x))).shape[-1]
        suite = auto_attack_suite(classes, threat.norm, suite)
    if run is None:
        return _Cascade(form, x, y, threat, suite, seed, batch_size, None).result()
    with Run(run, _config(form, x, y, threat, suite, seed, batch_size)) as folder:
        return _Cascade(form, x, y, threat, suite, seed, batch_size, folder).result()


def _config(
    form: nn.Module, x: Tensor, y: Tensor, threat: Threat, suite: Suite, seed: int, batch_size: int
) -> dict[str, Any]:
    return {
        "work": "auto_attack",
        "form": fingerprint(form),
        "samples": tensor_fingerprint({"x": x, "y": y}),
        "threat": asdict(threat),
        "suite": [{"method": member.method, **member.options} for member in suite.members],
        "seed": seed,
        "batch_size": batch_size,
    }


def _place(form: nn.Module, x: Tensor) -> torch.device:
    return next(form.parameters(), next(form.buffers(), x)).device


def _blind(stages: tuple[Stage, ...], samples: int) -> tuple[Flag, ...]:
    """Where a search without gradients finds what these do not, they may be masked."""
    words = "Square, without gradients, breaks {} samples that the attacks before it leave: a reason to look"
    found = [s for place, s in enumerate(stages) if place and s.attack == "square" and s.broken > BLIND * samples]
    return tuple(Flag("blind", words.format(stage.broken), masked=False) for stage in found)


def _check_suite(suite: Suite, stored: bool) -> None:
    """Refuse attacks that are unknown, and options that a run could not note."""
    for member in suite.members:
        if member.method not in ATTACKS:
            known = ", ".join(sorted(ATTACKS))
            raise ConfigError(explain(f"attacks of {known}", repr(member.method), suite.name, "name one of these"))
        odd = next((name for name, value in member.options.items() if callable(value)), None)
        if stored and odd is not None:
            remedy = "leave run out, or leave out the function"
            raise ConfigError(explain("options that a run can note", f"a function as {odd}", suite.name, remedy))


class _Cascade:
    """The state of one call: what broke every sample, and how far the current attack has come."""

    def __init__(
        self,
        form: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        suite: Suite,
        seed: int,
        batch_size: int,
        run: Run | None,
    ) -> None:
        self.form, self.x, self.y, self.threat, self.suite = form, x, y, threat, suite
        self.seed, self.batch_size, self.run = seed, batch_size, run
        self.work = len(x) * sum(passes(member.method, **member.options) for member in suite.members)
        if run is not None and run.has(STATE):
            state = run.read_tensors(STATE)
        else:
            wrong = self._wrong(x, y, unperturbed=True)
            state = {
                "inputs": self.x.clone(),
                "by": torch.where(wrong, CLEAN, STANDS),
                "tried": torch.full((len(x),), -1),  # The last attack that each sample went through.
                "seconds": torch.zeros(len(suite.members), dtype=torch.float64),
            }
        self.state = {name: tensor.to(x.device) for name, tensor in state.items()}

    def result(self) -> WorstCase:
        """Run what is left."""
        with progress(self.suite.name, len(self.suite.members) * len(self.x)) as advance:
            for place in range(len(self.suite.members)):
                self._stage(place, advance)
        count = min(FLAGGED, self.batch_size)
        stages, few = self._stages(), (self.x[:count], self.y[:count])
        flags = masking_flags(self.form, *few, self.threat, self.seed, searched=False)
        flags += _blind(stages, len(self.x))
        return WorstCase(self.state["inputs"], self.state["by"], self.suite, stages, self.threat, flags)

    def _stage(self, place: int, advance: Advance) -> None:
        by, tried = self.state["by"], self.state["tried"]
        rows = ((by == STANDS) & (tried < place)).nonzero().flatten()
        advance(len(self.x) - len(rows))
        member = self.suite.members[place]
        for part in rows.split(self.batch_size) if len(rows) else ():
            start = time.perf_counter()
            inputs, labels = self.x[part], self.y[part]
            moved = perturb(
                self.form, inputs, labels, self.threat, member.method, self.seed, self.work, **member.options
            )
            wrong = self._wrong(moved, labels)
            fallen = part[wrong]
            self.state["inputs"][fallen] = moved[wrong]
            by[fallen] = place
            tried[part] = place
            self.state["seconds"][place] += time.perf_counter() - start
            if self.run is not None:
                self.run.write_tensors(STATE, self.state)
            advance(len(part))

    def _stages(self) -> tuple[Stage, ...]:
        by, found = self.state["by"], []
        for place, member in enumerate(self.suite.members):
            attacked, broken = int(((by == STANDS) | (by >= place)).sum()), int((by == place).sum())
            found.append(Stage(member.method, attacked, broken, float(self.state["seconds"][place])))
        return tuple(found)

    def _wrong(self, inputs: Tensor, labels: Tensor, unperturbed: bool = False) -> Tensor:
        """Whether the form, asked anew, gets them wrong."""
        found = []
        with attack_mode(self.form), torch.no_grad():
            for part, own in zip(inputs.split(self.batch_size), labels.split(self.batch_size), strict=True):
                outputs = self.form(part.to(_place(self.form, part)))
                if unperturbed:
                    check_finite(outputs, f"auto_attack of {type(self.form).__name__}")
                found.append((outputs.argmax(-1) != own.to(outputs.device)).to(inputs.device))
        return torch.cat(found)

"""Signs that gradients lead attacks astray, so that a figure of robustness cannot be trusted."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pluriform.attacks.gradient import ascend, attack_mode, raw_ascent
from pluriform.attacks.noise import uniform
from pluriform.attacks.objective import margin
from pluriform.attacks.perturb import perturb
from pluriform.attacks.threat import Threat
from pluriform.axes import Inputs, Labels
from pluriform.errors import UnsupportedOpError

__all__ = ["Flag", "masking_flags"]

RUNS = 5
DIFFERENT = 1e-4  # Of normalised logits.
DISTRIBUTION = 1e-5
STEPS = 20
QUERIES = 300
LEAST_LEAD = 0.02  # Share of samples by which a blind search may beat gradients.
RADIUS = 0.1  # Of eps, within which gradients are compared.
ALIGNED = 0.5  # Median cosine of gradients that belong together.
STANDING = 0.05  # Share of samples that may stand when the whole box is allowed.


@dataclass(frozen=True)
class Flag:
    """One sign.

    Attributes:
        kind: `random`, `distribution`, `not finite`, `zero`, `saturated`, `shattered`, `unreachable`, `blind`,
            `transfer` or `no gradient`.
        words: What was seen, and what it means.
        masked: Whether figures of gradient attacks cannot be trusted; otherwise it is a reason to look closer.
    """

    kind: str
    words: str
    masked: bool = True


def masking_flags(
    form: nn.Module,
    inputs: Inputs,
    labels: Labels,
    threat: Threat,
    seed: int = 0,
    *,
    searched: bool = True,
    surrogate: nn.Module | None = None,
) -> tuple[Flag, ...]:
    """What speaks against the gradients of a form; empty for an honest one.

    Looked for are outputs that differ from run to run (`random`), are probabilities (`distribution`), do not depend
    differentiably on the inputs (`no gradient`); input gradients of the margin that hold NaN or infinity
    (`not finite`); those of it, or of the cross-entropy alone, that are exactly zero (`zero`, `saturated`) or point
    elsewhere a tenth of eps away (`shattered`: median cosine below 0.5); samples that stand though PGD may go anywhere
    in the box (`unreachable`: above 5 %); and a blind search that breaks more than gradients do (`blind`: Square with
    300 queries against PGD on cross-entropy and margin, beyond 2 % and two standard errors). With a surrogate, also
    attacks on it that break the form where attacks on the form itself do not (`transfer`: PGD, by the same measure).

    Args:
        form: A form, or a module that gives logits.
        inputs: Inside the bounds; a hundred are enough.
        labels: True classes, integers.
        threat: With bounds.
        seed: Of all random numbers.
        searched: Whether to look for `unreachable` and `blind`, which takes some 500 passes over the inputs.
        surrogate: Another network for the same classes, an undefended one best, for the black-box transfer check.

    References:
        Athalye, Carlini, Wagner, 2018, Obfuscated gradients give a false sense of security, arXiv 1802.00420.
        Croce, Hein, 2020, Reliable evaluation of adversarial robustness, arXiv 2003.01690.
        Pintor et al., 2021, Indicators of attack failure, arXiv 2106.09947.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(-1))
        >>> x = torch.rand(20, 1, 4, 4)
        >>> [flag.kind for flag in masking_flags(net, x, net(x).argmax(1), Threat("linf", 0.1, (0, 1)))]
        ['distribution']
    """
    place = next(form.parameters(), next(form.buffers(), inputs)).device
    inputs, labels = inputs.detach().to(place), labels.to(place).long()
    with attack_mode(form):
        with torch.no_grad():
            outputs = torch.stack([form(inputs) for _ in range(RUNS)])
        flags = [_random(outputs, labels), _distribution(outputs[0])]
        try:
            flags += _gradients(form, inputs, labels, threat, seed)
        except UnsupportedOpError:
            words = "outputs do not depend differentiably on the inputs: gradient attacks see nothing"
            return tuple(flag for flag in [*flags, Flag("no gradient", words)] if flag is not None)
    right = outputs[0].argmax(-1) == labels
    if threat.eps and bool(right.any()) and (searched or surrogate is not None):
        few = inputs[right], labels[right]
        seeing = _standing(form, *few, threat, seed)
        if searched:
            flags += [_unreachable(form, *few, threat, seed), _blind(form, *few, threat, seed, seeing)]
        if surrogate is not None:
            flags += [_transferred(form, *few, threat, seed, seeing, surrogate)]
    return tuple(flag for flag in flags if flag is not None)


def _random(outputs: Tensor, labels: Tensor) -> Flag | None:
    largest = outputs.abs().max().clamp_min(1e-12)
    spread = float((outputs - outputs[0]).abs().max() / largest)
    if spread <= DIFFERENT:
        return None
    accuracies = (outputs.argmax(-1) == labels).double().mean(1)
    words = f"{RUNS} runs on the same inputs differ by {spread:.2g} of the largest output"
    span = float(accuracies.max() - accuracies.min())
    words += f", accuracy by {100 * span:.1f} points" if span else ""
    return Flag("random", f"{words}: the form is randomised, an attack sees one draw; average over several (eot)")


def _distribution(outputs: Tensor) -> Flag | None:
    if not bool((outputs >= 0).all() and ((outputs.sum(-1) - 1).abs() <= DISTRIBUTION).all()):
        return None
    return Flag("distribution", "outputs are a distribution, not logits: cross-entropy gradients are flattened")


def _gradients(form: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> list[Flag | None]:
    raw, climbed = raw_ascent(form, inputs, labels, margin).gradient, ascend(form, inputs, labels).gradient
    own, torn = raw.nan_to_num(), int((~raw.isfinite()).flatten(1).any(1).sum())
    dead, quiet = (int(found.flatten(1).eq(0).all(1).sum()) for found in (own, climbed))
    count, flags = len(inputs), []
    if torn:
        words = f"{torn} of {count} input gradients hold NaN or infinity, which attacks take for 0 or for very large"
        flags.append(Flag("not finite", f"{words}: square roots, logarithms and divisions have no slope at their edge"))
    if dead:
        words = f"{dead} of {count} input gradients are exactly zero: gradients may be masked"
        flags.append(Flag("zero", words))
    elif quiet:
        words = f"{quiet} of {count} gradients of the cross-entropy are exactly zero, those of the margin are not"
        flags.append(Flag("saturated", f"{words}: large logits hide the way from attacks on cross-entropy"))
    size = inputs[0].numel()  # Uniform noise has the length of the cube's side, its root, and half of its sum.
    reach = RADIUS * threat.eps * {"linf": 1.0, "l2": size**-0.5, "l1": 2.0 / size}[threat.norm]
    beside = (inputs + reach * (2 * uniform(inputs, seed) - 1)).clamp(*threat.box)
    other = ascend(form, beside, labels, margin).gradient
    cosine = torch.cosine_similarity(own.flatten(1).double(), other.flatten(1).double(), dim=1)
    alive = ~(own.flatten(1).eq(0).all(1) | other.flatten(1).eq(0).all(1))
    if threat.eps and bool(alive.any()) and float(cosine[alive].median()) < ALIGNED:
        words = f"gradients a tenth of eps apart have a median cosine of {float(cosine[alive].median()):.2f}"
        flags.append(Flag("shattered", f"{words}: they do not say where the loss rises"))
    return flags


def _standing(form: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Tensor:
    """Samples that PGD on cross-entropy and on the margin leave."""
    left = torch.ones_like(labels, dtype=torch.bool)
    for options in ({}, {"objective": margin}):
        left &= _right(form, perturb(form, inputs, labels, threat, "pgd", seed, None, steps=STEPS, **options), labels)
    return left


def _right(form: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    with attack_mode(form), torch.no_grad():
        return form(inputs).argmax(-1) == labels


def _unreachable(form: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> Flag | None:
    low, high = threat.box
    anywhere = {"linf": 1.0, "l2": inputs[0].numel() ** 0.5, "l1": float(inputs[0].numel())}[threat.norm]
    whole = Threat(threat.norm, (high - low) * anywhere, threat.bounds)
    standing = float(_standing(form, inputs, labels, whole, seed).double().mean())
    if standing <= STANDING:
        return None
    words = f"{100 * standing:.0f} % of the samples stand though PGD may go anywhere within the bounds"
    return Flag("unreachable", f"{words}: it does not find its way")


def _blind(form: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int, seeing: Tensor) -> Flag | None:
    if threat.norm == "l1":
        return None
    moved = perturb(form, inputs, labels, threat, "square", seed, queries=QUERIES)
    only = seeing & ~_right(form, moved, labels)
    words = f"a blind search of {QUERIES} queries breaks {int(only.sum())} of {len(only)} samples that PGD cannot"
    return Flag("blind", f"{words}: gradients mislead it") if _leads(only) else None


def _transferred(
    form: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    threat: Threat,
    seed: int,
    seeing: Tensor,
    surrogate: nn.Module,
) -> Flag | None:
    moved = perturb(surrogate, inputs, labels, threat, "pgd", seed, steps=STEPS, stop_when_broken=False)
    only = seeing & ~_right(form, moved, labels)
    words = f"attacks on another network break {int(only.sum())} of {len(only)} samples that PGD on this one cannot"
    return Flag("transfer", f"{words}: gradients mislead it") if _leads(only) else None


def _leads(only: Tensor) -> bool:
    """Whether the share of samples that PGD alone cannot break is beyond 2 % and two standard errors."""
    lead = float(only.double().mean())
    return lead - 2 * (max(lead, 1e-12) * (1 - lead) / len(only)) ** 0.5 > LEAST_LEAD

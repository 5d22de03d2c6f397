"""Accuracy on test inputs corrupted at several severities."""

from collections.abc import Sequence

import torch

from pluriform.data.corruption import CORRUPTIONS, TABLE_CORRUPTIONS, corrupt
from pluriform.errors import ConfigError, explain
from pluriform.evaluation.findings import Findings, measure
from pluriform.evaluation.subject import Subject, stratified_index

__all__ = ["SEVERITIES", "measure_corruption"]

PICTURE_DEFAULTS = ("gaussian_noise", "gaussian_blur", "contrast", "rotate")
SEVERITIES = (1, 3, 5)
SAMPLES = 1000


def measure_corruption(
    subject: Subject, names: Sequence[str] | None = None, severities: Sequence[int] = SEVERITIES, samples: int = SAMPLES
) -> Findings:
    """`corrupted_accuracy` for every corruption and severity.

    Args:
        subject: The form and its data.
        names: Corruptions; a noise, a blur, contrast and rotation by default (all for tables); none for `()`.
        severities: From 1 (mild) to 5.
        samples: At most so many test samples, stratified and seeded.

    Raises:
        ConfigError: An unknown corruption.
    """
    pictures = len(subject.data.input_shape) == 3
    legal = CORRUPTIONS if pictures else TABLE_CORRUPTIONS
    chosen = list((PICTURE_DEFAULTS if pictures else TABLE_CORRUPTIONS) if names is None else names)
    unknown = [name for name in chosen if name not in legal]
    if unknown:
        raise ConfigError(
            explain(f"corruptions among {', '.join(sorted(legal))}", unknown[0], "evaluate", "name one of these")
        )
    data, bootstrap = subject.data, subject.bootstrap
    if len(data.input_shape) not in (1, 3) or (data.bounds is None and len(data.input_shape) == 3):
        return Findings(
            protocol={"corruptions": {"skipped": f"{data.name} is neither a table nor pictures with bounds"}}
        )
    index = stratified_index(subject.test.targets, samples, subject.seed)
    inputs, labels = data.test.batch(index)
    conditions = [{"corruption": name, "severity": severity} for name in chosen for severity in severities]
    columns = []
    for name, severity in ((where["corruption"], where["severity"]) for where in conditions):
        moved = corrupt(inputs, name, severity, bounds=data.bounds, seed=subject.seed)
        columns.append((subject.form.predict(moved).mean.argmax(-1).cpu() == labels).double())
    if not columns:
        return Findings()
    correct = torch.stack(columns, 1)
    facts = zip(correct.mean(0).tolist(), bootstrap.means(correct), conditions, strict=True)
    measures = [
        measure("corrupted_accuracy", value, interval, bootstrap.words, count=len(index), condition=where)
        for value, interval, where in facts
    ]
    protocol = {"names": chosen, "severities": list(severities), "samples": len(index), "seed": subject.seed}
    return Findings(tuple(measures), (), {"corruptions": protocol})

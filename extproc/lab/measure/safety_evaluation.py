"""`extproc eval --safety`: what the registry's safety head finds in labelled rows."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from extproc.embedding.encoder_files import DIMENSIONS
from extproc.errors import OperatorError
from extproc.lab.datasets import safety_in
from extproc.lab.figures.number_formats import threshold
from extproc.lab.measure.replay import CandidateRegistry
from extproc.lab.measure.safety_figures import figures, figures_text
from extproc.lab.train.safety_fitting import prepare, surest


class SafetyReport(msgspec.Struct, frozen=True):
    """Recall and false positives of the head that serves."""

    registry: str
    version: str
    thresholds: dict[str, float]  # by class
    figures: dict[str, object]  # see ``safety_figures.figures``


def evaluate_safety(candidate: CandidateRegistry, files: Sequence[Path]) -> SafetyReport:
    """Raises ``OperatorError`` if the registry has no safety head, or a file cannot be read."""
    policy = candidate.snapshot.safety
    head = policy.head if policy else None
    if head is None:
        raise OperatorError("--safety: the registry has no safety head (expected `safety.head`)")
    rows = [row for path in files for row in safety_in(path)(()).rows]
    data = prepare(rows, candidate.encoder, DIMENSIONS)
    found = surest(head.head, data, np.arange(len(rows)))
    above = found > np.array(head.thresholds)
    return SafetyReport(
        registry=candidate.name,
        version=candidate.loaded.version,
        thresholds=dict(zip(head.classes, head.thresholds, strict=True)),
        figures=figures(data.labels, data.classes, data.sets, above),
    )


def safety_text(report: SafetyReport) -> str:
    """The table for a terminal."""
    thresholds = ", ".join(f"{name} {threshold(least)}" for name, least in report.thresholds.items())
    return (
        f"registry    {report.registry} (version {report.version})\n"
        f"thresholds  {thresholds}\n\n{figures_text(report.figures)}\n"
        "Rows that the head was trained on look better than others."
    )

"""`extproc train --safety`: from labelled files to a safety head on disk."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from extproc.embedding.encoder_files import DIMENSIONS, locate
from extproc.embedding.encoder_session import DeepEncoder, ReportingEncoder, open_encoder
from extproc.errors import OperatorError
from extproc.lab.datasets import Dataset, SafetyRow, safety_in
from extproc.lab.measure.safety_figures import figures_text
from extproc.lab.train.safety_fitting import fit_safety, prepare
from extproc.registry import safety_artefact
from extproc.registry.registry_loading import load

LEAST = 20  # rows of each class, and ordinary rows


def train_safety(
    registry: Path,
    files: Sequence[Path],
    out: Path,
    encoder_dir: Path | None,
    *,
    false_positives: float,
    seed: int,
    progress: Callable[[str], None],
) -> str:
    """Fit, measure and write a safety head for the registry's encoder; the report for a terminal.

    Raises ``OperatorError``: a file cannot be read, or there are too few rows of a class.
    """
    read = [safety_in(path)(()) for path in files]
    rows = [row for dataset in read for row in dataset.rows]
    _require_rows(rows)
    settings = load(registry, untrained=True).registry.encoder
    encoder = open_encoder(locate(encoder_dir, settings.model), settings)
    reporting = ReportingEncoder(
        DeepEncoder(encoder), lambda done, of: progress(f"embedded {done} of {of} pieces of texts")
    )
    data = prepare(rows, reporting, DIMENSIONS)
    progress("fitting")
    fit = fit_safety(data, false_positives, seed)
    manifest = safety_artefact.SafetyManifest(
        format=safety_artefact.FORMAT,
        encoder=encoder.name,
        classes=data.classes,
        thresholds=fit.thresholds,
        false_positives=false_positives,
        data_sha256=_hash_of(read),
        seed=seed,
        metrics=dict(fit.metrics),
    )
    safety_artefact.write(out, manifest, fit.head)
    progress("")
    return "\n".join(
        (
            figures_text(fit.metrics),
            "Groups of near-duplicates were set apart; each figure is of rows that fitted and chose nothing.",
            f"wrote {out}: write `safety: {{head: {{artefact: {out}}}}}` into the registry",
        )
    )


def _require_rows(rows: Sequence[SafetyRow]) -> None:
    counts: dict[str | None, int] = {None: 0}
    for row in rows:
        counts[row.label] = counts.get(row.label, 0) + 1
    if len(counts) == 1:
        raise OperatorError("--safety: no row has a class (expected rows with a `label` that is not null)")
    for name, count in counts.items():
        if count < LEAST:
            kind = "ordinary rows (`label` null)" if name is None else f"rows of the class `{name}`"
            raise OperatorError(f"--safety: {count} {kind} are too few (expected at least {LEAST})")


def _hash_of(read: Sequence[Dataset[SafetyRow]]) -> str:
    return hashlib.sha256("".join(dataset.version for dataset in read).encode()).hexdigest()

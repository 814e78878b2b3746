"""How a registry decides the rows of each language, so that no language is served worse unnoticed."""

from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.measure.intervals import Figure, share
from extproc.registry.labelled_rows import RouteRow
from extproc.routing.languages import ENGLISH, unread


class LanguageFigures(msgspec.Struct, frozen=True):
    """The decisions of the rows in one language."""

    language: str
    rows: int
    accuracy: Figure  # decided as labelled; out of scope, abstaining is right
    abstained: Figure  # of the rows in scope
    right_of_kept: Figure  # of all rows that got a route


def by_language(rows: Sequence[RouteRow], truth: Labels, decided: Labels) -> list[LanguageFigures]:
    """The figures of each language, the most frequent first. Empty if all rows have the same one."""
    of_row = np.array([language_of_row(row) for row in rows])
    names, counts = np.unique(of_row, return_counts=True)
    if len(names) < 2:
        return []
    ordered = sorted(zip(counts.tolist(), names.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    return [_figures(name, truth[of_row == name], decided[of_row == name]) for _, name in ordered]


def language_of_row(row: RouteRow) -> str:
    """The language that the row says, or else the detected one. English if none is detected."""
    return row.language or unread(row.text, frozenset({ENGLISH})) or ENGLISH


def _figures(language: str, truth: Labels, decided: Labels) -> LanguageFigures:
    inside, kept = truth >= 0, decided >= 0
    return LanguageFigures(
        language=language,
        rows=len(truth),
        accuracy=share(decided == truth),
        abstained=share(~kept[inside]),
        right_of_kept=share((decided == truth)[kept]),
    )

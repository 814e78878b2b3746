"""The worth of predicted quality on kinds of prompts that it was not trained on: whole sets or clusters."""

from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.lab.measure.choice_worth import BarFigures, Table, bar_figures, ends
from extproc.lab.measure.classification_metrics import Labels
from extproc.lab.measure.cost_quality import apgr_of
from extproc.lab.measure.intervals import Figure, bootstrap

_EXCERPT = 40  # characters of the prompt that stands for a cluster


class KindFigures(msgspec.Struct, frozen=True):
    """One kind of prompt at the advised bar, predicted by a fit without this kind."""

    name: str
    rows: int
    kept: Figure  # of the strong model's quality
    saving: Figure  # of the all-strong cost


class LeftOutFigures(msgspec.Struct, frozen=True):
    """APGR between the weak and the strong model, each kind predicted by a fit without it."""

    by: str  # sets or clusters
    served: Figure
    length: Figure  # the strong model for long prompts
    lead: Figure  # of what is served over prompt length, paired
    kinds: list[KindFigures]


def measure_left_out(
    table: Table, kinds: Labels, sets: Sequence[str], bar: BarFigures | None
) -> LeftOutFigures:
    """``table`` has predictions without each row's kind; at no ``bar`` there are no figures of kinds."""
    weak, strong = ends(table)
    low, high = table.scores[:, weak], table.scores[:, strong]
    gain = table.predicted[:, strong] - table.predicted[:, weak]
    lengths = np.array([len(text) for text in table.texts], np.float64)
    served, length = apgr_of(gain, low, high), apgr_of(lengths, low, high)
    every = np.ones((1, len(low)))
    rows = len(low)
    lead = float((served(every) - length(every))[0])
    return LeftOutFigures(
        by="sets" if sets else "clusters",
        served=Figure.of(float(served(every)[0]), bootstrap(served, rows)),
        length=Figure.of(float(length(every)[0]), bootstrap(length, rows)),
        lead=Figure.of(lead, bootstrap(lambda weights: served(weights) - length(weights), rows)),
        kinds=[] if bar is None else _kinds(table, kinds, sets, strong, bar.bar),
    )


def _kinds(table: Table, kinds: Labels, sets: Sequence[str], strong: int, bar: float) -> list[KindFigures]:
    found = []
    for kind in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == kind)
        figures = bar_figures(table.take(rows), strong, bar)
        name = sets[kind] or "(no set)" if sets else f"like {table.texts[rows[0]][:_EXCERPT]!r}"
        found.append(KindFigures(name, len(rows), figures.kept, figures.saving))
    return sorted(found, key=lambda each: -each.rows)

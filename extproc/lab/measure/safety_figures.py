"""Recall and false positives of a safety head, side by side and with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from extproc.lab.figures.number_formats import score
from extproc.lab.figures.report_layout import text_table
from extproc.lab.measure.intervals import wilson

ORDINARY: Final = 0  # the label of ordinary rows; the classes follow

_Truths = NDArray[np.bool_]


def figures(
    labels: NDArray[np.intp], classes: Sequence[str], sets: Sequence[str], above: _Truths
) -> dict[str, object]:
    """Recall by class and by set, and false positives by set: hits, rows and 95 % Wilson intervals.

    ``above`` says of each row and class whether it is above the threshold. A row of a class counts as found
    if it is above that of any class: something is done about it.
    """
    found = np.asarray(above.any(axis=1), bool)
    named = np.array(sets)
    recall = {
        name: {"all": _share(found[labels == place])}
        | {
            each: _share(found[(labels == place) & (named == each)])
            for each in sets_of(sets, labels == place)
        }
        for place, name in enumerate(classes, start=1)
    }
    ordinary = labels == ORDINARY
    wrong = {each: _share(found[ordinary & (named == each)]) for each in sets_of(sets, ordinary)}
    return {"recall": recall, "false_positives": wrong}


def sets_of(sets: Sequence[str], which: _Truths) -> list[str]:
    """The sets of the rows that ``which`` selects."""
    return sorted({name for name, taken in zip(sets, which, strict=True) if taken})


def _share(hits: _Truths) -> dict[str, float]:
    interval = wilson(float(hits.sum()), len(hits))
    return {
        "hits": int(hits.sum()),
        "rows": len(hits),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
    }


def figures_text(metrics: Mapping[str, Any]) -> str:
    """Recall by class and set beside false positives by set, with intervals."""
    rows = [
        [f"recall of {name}", each, *_cells(share)]
        for name, sets in metrics["recall"].items()
        for each, share in sets.items()
    ]
    rows += [["false positives", each, *_cells(share)] for each, share in metrics["false_positives"].items()]
    return text_table(["figure", "set", "rows", "share", "95 % interval"], rows)


def _cells(share: Mapping[str, float]) -> list[str]:
    rows = int(share["rows"])
    part = score(share["hits"] / rows if rows else None)
    return [str(rows), part, f"{score(share['low'])} to {score(share['high'])}"]

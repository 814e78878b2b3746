"""Draw rows to label from records: a stratified sample (Cochran, 1977, chapter 5) by route and margin.

A plain sample of traffic has mostly easy requests of the busiest route. This one takes the same number from
each stratum, which is a route (or none) and a band of margins. Each row has a weight, the number of requests
that it stands for, so `extproc eval` can also give figures for the whole traffic.

Requests that an LLM was asked about can be drawn alone, with what it answered: candidates for training, which
a person confirms. They are no holdout, because all are doubtful and the label was suggested.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from extproc.errors import OperatorError
from extproc.lab.datasets import lines_of
from extproc.lab.store.recorded_rows import text_of
from extproc.lab.store.segment_loading import segments_in
from extproc.registry.labelled_rows import parse
from extproc.vocabulary import LlmResult

_BANDS = (0.25, 0.5, 0.75)  # of margins; a decision without scores is a band of its own
_SUGGESTING = frozenset({LlmResult.MATCHED, LlmResult.NONE})  # results with an answer of an LLM
_PINNED = "pin"  # the client chose the model, so there is no decision to measure

Stratum = tuple[str, int]


class Record(msgspec.Struct, frozen=True):
    """The part of a record that sampling reads; see ``telemetry.rows``."""

    kind: str = "exchange"
    input_messages: str | None = None  # recorded only where an operator opted in
    route: str = ""
    stage: str = ""
    margin: float | None = None
    request_id: str = ""
    llm_result: str = ""
    llm_why: str | None = None  # recorded only with the text

    @property
    def text(self) -> str:
        """The routed text; empty if it is not recorded."""
        return text_of(self.input_messages) if self.input_messages else ""


class Sampled(msgspec.Struct, frozen=True):
    """A row to label, as it is written; it has no ``route`` yet."""

    text: str
    weight: float  # requests that it stands for
    decided: str  # the route it got; empty: none
    margin: float | None
    request_id: str


class SampledSuggestion(Sampled, frozen=True):
    """A row to label whose route an LLM suggests."""

    suggested: str | None  # null: it says that no route fits
    why: str  # in its own words


def read_records(paths: Iterable[Path], *, suggested: bool = False) -> list[Record]:
    """The exchanges that carry text and were decided; with ``suggested``, those for which an LLM answered.

    Raises ``DataError`` and ``OperatorError``.
    """
    exchanges, found = 0, []
    for record in _records(paths):
        if suggested and record.llm_result not in _SUGGESTING:
            continue
        exchanges += 1
        if record.stage != _PINNED and record.text:
            found.append(record)
    if suggested and not exchanges:
        raise OperatorError(
            "no exchange recorded there was decided with an LLM's answer (expected some with `llm_result` "
            f"{' or '.join(sorted(_SUGGESTING))}: the registry's `llm` asks it in doubt)"
        )
    if not found:
        raise OperatorError(
            f"none of the {exchanges} exchanges recorded there carries the text that was routed (expected "
            "`input_messages` in some: recording prompts is an opt-in, off by default, and keeps a sample)"
        )
    return found


def sample(records: Sequence[Record], rows: int, seed: int, *, suggested: bool = False) -> list[Sampled]:
    """At most ``rows`` rows with different texts, as many from each stratum as from the others if possible.

    With ``suggested``, rows carry the LLM's answers, which all records must have. The order is random, so
    that the next row's route cannot be guessed while labelling.
    """
    random = np.random.default_rng(seed)
    strata: dict[Stratum, dict[str, Record]] = {}
    requests: dict[Stratum, int] = {}
    seen: dict[str, Stratum] = {}
    for record in records:
        text = record.text
        stratum = seen.setdefault(text, _stratum(record))
        strata.setdefault(stratum, {}).setdefault(text, record)
        requests[stratum] = requests.get(stratum, 0) + 1
    names = sorted(strata)
    shares = even_shares([len(strata[name]) for name in names], rows)
    chosen = []
    for name, share in zip(names, shares, strict=True):
        members = list(strata[name].values())
        picked = random.choice(len(members), size=share, replace=False).tolist()
        chosen += [_sampled(members[i], requests[name] / share, suggested) for i in picked]
    return [chosen[i] for i in random.permutation(len(chosen)).tolist()]


def even_shares(sizes: Sequence[int], total: int) -> list[int]:
    """``total`` divided equally; a part gets at most its size."""
    shares = [0] * len(sizes)
    left = min(total, sum(sizes))
    while left:
        for i, size in enumerate(sizes):
            if left and shares[i] < size:
                shares[i] += 1
                left -= 1
    return shares


def _records(paths: Iterable[Path]) -> Iterator[Record]:
    for path in segments_in(paths):
        for line, text in lines_of(path):
            record = parse(path, line, text, Record)
            if record.kind == "exchange":
                yield record


def _stratum(record: Record) -> Stratum:
    band = -1 if record.margin is None else int(np.searchsorted(_BANDS, record.margin, side="right"))
    return record.route, band


def _sampled(record: Record, weight: float, suggested: bool) -> Sampled:
    known = (record.text, round(weight, 3), record.route, record.margin, record.request_id)
    if not suggested:
        return Sampled(*known)
    return SampledSuggestion(*known, suggested=record.route or None, why=record.llm_why or "")

"""Every decision of `extproc eval` as one line of JSON, to look at single rows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from extproc.errors import OperatorError
from extproc.lab.measure.llm_endpoint import Heard
from extproc.lab.measure.replay import DENIED
from extproc.registry.labelled_rows import RouteRow
from extproc.vocabulary import Candidate, Decision


class LlmAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an LLM said about a row in doubt."""

    result: str  # how the call ended: matched, none, invalid, timeout or failed
    route: str | None  # that it named; null: none
    why: str  # in its own words
    milliseconds: float
    input_tokens: int | None
    output_tokens: int | None


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row and its decision without an LLM. A score is null if no embedding was made."""

    text: str
    route: str | None  # as labelled; null: out of scope
    decided: str | None  # null: the default model or a rule's model answers, or the request is denied
    right: bool
    model: str = ""  # empty: denied
    stage: str = ""
    reason: str
    probability: float | None = None
    margin: float | None = None
    similarity: float | None = None
    in_scope: float | None = None  # the probability that the text belongs to any route
    candidates: tuple[Candidate, ...] = ()  # the most probable routes, best first
    llm: LlmAnswer | None = None  # null: it was not asked about this row


def write_decisions(
    path: Path,
    rows: Sequence[RouteRow],
    decisions: Sequence[Decision | None],
    heard: Mapping[str, Heard],
) -> None:
    """Write a file of JSON lines in the order of the rows. ``heard`` has an LLM's answers by text.

    Raises ``OperatorError``.
    """
    try:
        with path.open("wb") as file:
            for line in _lines(rows, decisions, heard):
                file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error


def _lines(
    rows: Sequence[RouteRow], decisions: Sequence[Decision | None], heard: Mapping[str, Heard]
) -> Iterator[DecisionRow]:
    for row, decision in zip(rows, decisions, strict=True):
        if decision is None:
            yield DecisionRow(
                text=row.text, route=row.route, decided=None, right=row.route is None, reason=DENIED
            )
            continue
        decided = decision.route or None
        yield DecisionRow(
            text=row.text,
            route=row.route,
            decided=decided,
            right=decided == row.route,
            model=decision.model,
            stage=decision.stage,
            reason=decision.reason,
            probability=decision.probability,
            margin=decision.margin,
            similarity=decision.similarity,
            in_scope=decision.in_scope,
            candidates=decision.candidates,
            llm=_answer(heard[row.text]) if row.text in heard else None,
        )


def _answer(heard: Heard) -> LlmAnswer:
    opinion = heard.opinion
    return LlmAnswer(
        result=opinion.result,
        route=opinion.route or None,
        why=opinion.why,
        milliseconds=round(heard.seconds * 1000, 1),
        input_tokens=opinion.input_tokens,
        output_tokens=opinion.output_tokens,
    )

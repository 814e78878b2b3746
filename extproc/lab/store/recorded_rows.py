"""Routes and outcomes from the record store: opinions on requests whose text was recorded.

Texts are recorded only if the operator opted in. The route of a text is the label of the latest opinion named
``route``. The score of a model's answer is the mean of the opinions on that model's answers.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from extproc.errors import OperatorError
from extproc.lab.datasets import Dataset, OutcomeRow, Reader
from extproc.lab.store.record_store import Store
from extproc.registry.labelled_rows import R, RouteRow

ROUTE = "route"  # the name of opinions whose label is the right route of a request
OUTSIDE = "none"  # the label of a request that should abstain, unless a route has this name
GRADES = ("feedback", "judge")  # the names of opinions on the quality of an answer
_AGREES = 0.5  # a lower score means that the label is wrong

_WITH_TEXT = "input_messages IS NOT NULL AND input_messages != ''"
_TEXTS = f"""\
SELECT request_id, trace_id, if(served_by != '', served_by, model) AS model, output_tokens, input_messages
FROM exchanges
WHERE {_WITH_TEXT}
ORDER BY time, request_id"""
_OF_TEXTS = f"IN (SELECT request_id FROM exchanges WHERE {_WITH_TEXT})"
_OPINIONS = f"""\
SELECT request_id, trace_id, name, score, label, subject, attempt, model
FROM evaluations
WHERE score IS NOT NULL AND (request_id {_OF_TEXTS} OR request_id = '')
ORDER BY time, evaluation_id"""
_ATTEMPTS = f"SELECT request_id, attempt, model, output_tokens FROM attempts WHERE request_id {_OF_TEXTS}"
_SHADOWS = f"SELECT request_id, model, output_tokens FROM shadows WHERE request_id {_OF_TEXTS}"


class Request(msgspec.Struct, frozen=True):
    """A recorded request with its text and the model whose answer the client got."""

    request_id: str
    trace_id: str
    model: str
    text: str
    output_tokens: int | None = None


class RecordedFeedback(msgspec.Struct, frozen=True):
    """An opinion; see ``telemetry.rows.EvaluationRow``."""

    request_id: str
    trace_id: str
    name: str
    score: float
    label: str = ""
    subject: str = "exchange"
    attempt: int | None = None
    model: str = ""


class RecordedAnswer(msgspec.Struct, frozen=True):
    """An answer of another model, in an attempt or as a shadow."""

    request_id: str
    model: str
    output_tokens: int | None = None
    attempt: int | None = None  # None: a shadow


class History(msgspec.Struct, frozen=True):
    """The requests whose text the store has, their opinions and other answers, the oldest first."""

    requests: Sequence[Request]
    opinions: Sequence[RecordedFeedback]
    answers: Sequence[RecordedAnswer] = ()


def routes_recorded(store: Store, name: str) -> Reader[RouteRow]:
    """A reader of labelled rows in ``store``; messages call it ``name``."""

    def read(known: Collection[str]) -> Dataset[RouteRow]:
        rows = route_rows(read_history(store), known)
        if not rows:
            raise OperatorError(
                f"{name} has no request with both a recorded text and a route (expected opinions named "
                f"`{ROUTE}`, whose label is one of {', '.join(known)} or {OUTSIDE}, and recorded text)"
            )
        return _dataset(name, rows)

    return read


def outcomes_recorded(store: Store, name: str) -> Reader[OutcomeRow]:
    """A reader of outcomes in ``store``; messages call it ``name``."""

    def read(known: Collection[str]) -> Dataset[OutcomeRow]:
        rows = outcome_rows(read_history(store), known)
        if not rows:
            raise OperatorError(
                f"{name} has no request with both a recorded text and an opinion on an answer (expected "
                f"opinions named {' or '.join(GRADES)} on answers of {', '.join(known)}, and recorded text)"
            )
        return _dataset(name, rows)

    return read


def has_routes(store: Store) -> bool:
    """Whether the store has opinions on routes."""
    return _any(store, [ROUTE])


def has_outcomes(store: Store) -> bool:
    """Whether the store has opinions on answers."""
    return _any(store, GRADES)


def read_history(store: Store) -> History:
    """The history of a store. Raises ``OperatorError`` if the store refuses."""
    requests = []
    for row in store.rows(_TEXTS):
        text = text_of(row.pop("input_messages"))
        if text:
            requests.append(msgspec.convert({**row, "text": text}, Request, strict=False))
    answers = store.rows(_ATTEMPTS) + store.rows(_SHADOWS)
    return History(
        requests,
        msgspec.convert(store.rows(_OPINIONS), list[RecordedFeedback], strict=False),
        msgspec.convert(answers, list[RecordedAnswer], strict=False),
    )


def text_of(messages: str) -> str:
    """The text of the latest user turn in ``gen_ai.input.messages``; empty if there is none."""
    try:
        turns = msgspec.json.decode(messages, type=list[dict[str, Any]])
        users = [turn for turn in turns if turn.get("role") == "user"]
        parts = users[-1]["parts"] if users else []
        texts = [part["content"] for part in parts if part.get("type") == "text"]
        return "\n".join(texts) if "".join(texts).strip() else ""
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return ""  # other instrumentation may write another shape


def route_rows(history: History, known: Collection[str]) -> list[RouteRow]:
    """A row for each labelled text; its weight is the number of requests. Unknown labels are ignored."""
    meant: dict[str, str | None] = {}
    for request, opinion in _opinions(history):
        if opinion.name != ROUTE or opinion.score < _AGREES:
            continue
        if opinion.label in known:
            meant[request.text] = opinion.label
        elif opinion.label == OUTSIDE:
            meant[request.text] = None
    asked = Counter(request.text for request in history.requests)
    return [RouteRow(text, route, weight=float(asked[text])) for text, route in meant.items()]


def outcome_rows(history: History, known: Collection[str]) -> list[OutcomeRow]:
    """A row for each text with scored answers; answers of unknown models are ignored."""
    attempts = {(answer.request_id, answer.attempt): answer.model for answer in history.answers}
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for request, opinion in _opinions(history):
        if opinion.name not in GRADES:
            continue
        model = opinion.model
        if not model and opinion.subject == "exchange":
            model = request.model
        elif not model and opinion.subject == "attempt":
            model = "" if opinion.attempt is None else attempts.get((request.request_id, opinion.attempt), "")
        if model in known:
            scores[request.text][model].append(opinion.score)
    tokens = _tokens(history)
    return [
        OutcomeRow(
            text,
            {model: fmean(given) for model, given in by_model.items()},
            {model: tokens[text, model] for model in by_model if (text, model) in tokens},
        )
        for text, by_model in scores.items()
    ]


def _opinions(history: History) -> Iterable[tuple[Request, RecordedFeedback]]:
    """Every opinion with its request, by the request id; without an id, with all requests of its trace."""
    by_id: Mapping[str, Request] = {request.request_id: request for request in history.requests}
    by_trace: dict[str, list[Request]] = defaultdict(list)
    for request in history.requests:
        by_trace[request.trace_id].append(request)
    for opinion in history.opinions:
        if opinion.request_id:
            found = [by_id[opinion.request_id]] if opinion.request_id in by_id else []
        else:
            found = by_trace[opinion.trace_id] if opinion.trace_id else []
        for request in found:
            yield request, opinion


def _tokens(history: History) -> Mapping[tuple[str, str], int]:
    """The mean number of tokens of each model's answers to a text, where it is known."""
    texts = {request.request_id: request.text for request in history.requests}
    counted: dict[tuple[str, str], list[int]] = defaultdict(list)
    answers: list[Request | RecordedAnswer] = [*history.requests, *history.answers]
    for answer in answers:
        if answer.output_tokens is not None and answer.request_id in texts:
            counted[texts[answer.request_id], answer.model].append(answer.output_tokens)
    return {key: round(fmean(counts)) for key, counts in counted.items()}


def _any(store: Store, names: Iterable[str]) -> bool:
    listed = ", ".join(f"'{name}'" for name in names)
    (found,) = store.rows(f"SELECT count() AS opinions FROM evaluations WHERE name IN ({listed})")
    return int(found["opinions"]) > 0


def _dataset(name: str, rows: Sequence[R]) -> Dataset[R]:
    return Dataset(name, hashlib.sha256(msgspec.json.encode(rows)).hexdigest()[:12], rows)

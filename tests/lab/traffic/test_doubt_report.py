"""What the LLM said in doubt, and who was right, from records made to order."""

from datetime import timedelta

import msgspec
import pytest

from extproc.lab.store.record_store import Store
from extproc.lab.traffic.doubt_report import doubts_text, read_doubts
from extproc.telemetry.rows import EvaluationRow, ExchangeRow
from tests.lab.traffic.conftest import BEGIN, Put


def exchange(number: int, result: str, leans: str = "", route: str = "", **fields: object) -> ExchangeRow:
    known = {
        "time": BEGIN + timedelta(minutes=number), "request_id": f"r{number}", "trace_id": f"t{number}",
        "api": "openai.chat", "model": "mid", "route": route, "llm_result": result, "llm_model": "small",
        "candidates": [f"{leans}:0.41", "other:0.2"] if leans else [], "bypassed": False, "refused": False,
    }  # fmt: skip
    return msgspec.convert(known | fields, ExchangeRow, strict=False)


def opinion(number: int, name: str, label: str = "", score: float = 1.0, **fields: object) -> EvaluationRow:
    known = {
        "time": BEGIN + timedelta(minutes=number), "request_id": f"r{number}", "name": name, "label": label,
        "score": score, "evaluation_id": f"{name} {number} {label} {fields}",
    }  # fmt: skip
    return msgspec.convert(known | fields, EvaluationRow, strict=False)


ROWS = [
    exchange(1, "matched", leans="code", route="code", llm_us=100_000, llm_cost_usd=0.01, llm_cached=False),
    exchange(2, "matched", leans="code", route="poetry", llm_us=300_000, llm_cost_usd=0.01, llm_cached=False),
    exchange(3, "matched", leans="code", route="poetry", llm_cached=True),
    exchange(4, "matched", leans="code", route="poetry"),
    exchange(5, "none", leans="poetry"),
    exchange(6, "matched", route="code"),  # a language that is not embedded
    exchange(7, "budget", leans="code"),
    exchange(8, "", leans="code", route="code"),  # not in doubt
]
LABELS = [
    opinion(1, "route", "code"),
    opinion(2, "route", "poetry"),
    opinion(3, "route", "poetry"),
    opinion(4, "route", "code"),
    opinion(5, "route", "none"),
    opinion(7, "route", "none"),
    opinion(8, "route", "poetry"),
]


def test_who_was_right_is_counted_where_a_label_is_known(store: Store, put: Put) -> None:
    put([*ROWS, *LABELS])
    made = read_doubts(store)
    assert made.requests == 7
    by_standing = {each.standing: each for each in made.standings}
    assert {name: each.requests for name, each in by_standing.items()} == {
        "agrees": 1, "differs": 3, "embedding has none": 1, "names none": 1, "silent": 1,
    }  # fmt: skip
    differs = by_standing["differs"]
    assert differs.llm_right.value == pytest.approx(2 / 3)
    assert differs.embedding_right.value == pytest.approx(1 / 3)
    assert differs.default_right.value == 0.0
    assert by_standing["names none"].default_right.value == 1.0
    assert by_standing["silent"].llm_right.samples == 0
    assert by_standing["embedding has none"].default_right.samples == 0  # nobody labelled it
    assert (made.llm_alone_right, made.embedding_alone_right) == (3, 1)
    assert made.p_value == pytest.approx(0.625)


def test_each_disagreement_has_its_line_the_most_frequent_first(store: Store, put: Put) -> None:
    put([*ROWS, *LABELS])
    first, second = read_doubts(store).disagreements
    assert (first.leaning, first.named, first.requests, first.labelled) == ("code", "poetry", 3, 3)
    assert (first.llm_right, first.embedding_right, first.default_right) == (2, 1, 0)
    assert (second.leaning, second.named, second.llm_right, second.default_right) == ("poetry", "none", 1, 1)


def test_the_latest_label_of_a_request_counts_and_a_denied_one_does_not(store: Store, put: Put) -> None:
    put(
        [
            *ROWS,
            opinion(2, "route", "code"),
            opinion(2, "route", "poetry", time=BEGIN + timedelta(days=1)),
            opinion(2, "route", "code", time=BEGIN + timedelta(days=2), score=0.0),
            opinion(3, "route", "poetry", request_id="", trace_id="t3"),
        ]
    )
    made = read_doubts(store)
    assert (made.llm_alone_right, made.embedding_alone_right) == (2, 0)


def test_opinions_on_answers_are_compared_by_who_chose(store: Store, put: Put) -> None:
    grades = [opinion(number, "feedback", score=float(number != 2)) for number in (2, 3, 7)]
    put([*ROWS, *grades])
    quality = {each.standing: each.quality for each in read_doubts(store).standings}
    assert (quality["differs"]["feedback"].value, quality["differs"]["feedback"].samples) == (0.5, 2)
    assert quality["silent"]["feedback"].value == 1.0
    assert quality["agrees"] == {}


def test_calls_have_their_time_and_cost_by_result(store: Store, put: Put) -> None:
    put(ROWS)
    matched, *others = read_doubts(store).calls
    assert (matched.result, matched.requests, matched.cached) == ("matched", 5, 1)
    assert matched.cost_usd == pytest.approx(0.02)
    assert matched.p50_ms is not None
    assert 100 <= matched.p50_ms <= 300
    assert [(each.result, each.p50_ms, each.cost_usd) for each in others] == [
        ("budget", None, None),
        ("none", None, None),
    ]


def test_only_the_window_counts(store: Store, put: Put) -> None:
    put([*ROWS, *LABELS])
    assert read_doubts(store, BEGIN + timedelta(minutes=6)).requests == 2


def test_the_text_says_each_standing_in_words(store: Store, put: Put) -> None:
    put([*ROWS, *LABELS, opinion(2, "feedback", score=0.0)])
    text = doubts_text(read_doubts(store))
    assert "7 requests in doubt" in text
    assert "LLM 3, embedding 1 (p = 0.625" in text
    assert "differs: it names another route" in text
    assert "feedback" in text


def test_without_a_request_in_doubt_it_says_so(store: Store, put: Put) -> None:
    put([exchange(1, "", leans="code", route="code")])
    assert doubts_text(read_doubts(store)) == "no request in doubt is recorded there while `llm` was on"

"""Hints beside quality: each share is of what could be seen, and none is called quality."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from extproc.lab.store.record_store import Store
from extproc.lab.traffic.traffic_page import as_page
from extproc.lab.traffic.traffic_reading import read_report
from extproc.lab.traffic.traffic_report import SliceReport
from extproc.lab.traffic.traffic_text import PROXIES_HEAD, PROXIES_TITLE, as_text
from extproc.telemetry.rows import AnyRow, EvaluationRow, ExchangeRow
from tests.lab.traffic.conftest import BEGIN, Put, Traffic


def exchange(number: int, **fields: object) -> ExchangeRow:
    known = {
        "time": BEGIN + timedelta(minutes=number), "request_id": f"r{number}", "api": "openai.chat", "route": "code",
        "model": "small", "bypassed": False, "refused": False,
    }  # fmt: skip
    return msgspec.convert(known | fields, ExchangeRow, strict=False)


def slices(store: Store) -> dict[tuple[str, str], SliceReport]:
    made = read_report(store)
    assert made is not None
    return {(part.route, part.model): part for part in made.slices}


def test_each_share_is_of_the_exchanges_where_it_could_be_seen(store: Store, put: Put) -> None:
    ends = ["stop", "length", "max_tokens", "max_output_tokens", "tool_calls", "content_filter", ""]
    refusals = [False, False, False, False, False, True, None]
    reasks = [None, None, False, True, False, False, None]
    put(
        [
            exchange(n, finish_reason=end, refusal=refusal, reask=reask)
            for n, (end, refusal, reask) in enumerate(zip(ends, refusals, reasks, strict=True))
        ]
    )
    found = slices(store)["code", "small"].proxies
    assert [(share.samples, share.value) for share in found.rates] == [
        (6, 0.5),
        (6, pytest.approx(1 / 6)),
        (4, 0.25),
        (0, None),
    ]


def test_they_are_of_the_model_that_answered(store: Store, put: Put) -> None:
    put([exchange(1, finish_reason="length", served_by="large"), exchange(2, finish_reason="stop")])
    found = slices(store)
    assert found["code", "large"].proxies.cut_short.value == 1.0
    assert found["code", "small"].proxies.cut_short.value == 0.0


@pytest.mark.parametrize(
    ("conversation", "blamed", "followed"),
    [
        # (model, reask) in order: the answer just before who asks again is the one.
        ([("a", None), ("b", True)], "a", {"a": 1}),
        ([("a", None), ("b", False), ("c", True), ("d", False)], "b", {"a": 1, "b": 1, "c": 1}),
        ([("a", None), ("b", True), ("b", None), ("c", False)], "a", {"a": 1, "b": 1}),  # a tool's result
        ([("a", None), ("b", None)], "", {}),
        ([("a", True)], "", {}),  # the one before is not on record
    ],
)
def test_the_answer_before_a_question_asked_again_is_the_one_in_doubt(
    store: Store,
    put: Put,
    conversation: Sequence[tuple[str, bool | None]],
    blamed: str,
    followed: dict[str, int],
) -> None:
    rows = [
        exchange(10 * c + n, model=model, reask=reask, conversation_id=f"c{c}")
        for c in (1, 2)  # two conversations, one after the other, that do not mix
        for n, (model, reask) in enumerate(conversation)
    ]
    put([*reversed(rows)])
    found = {model: part.proxies.asked_again_after for (_, model), part in slices(store).items()}
    assert {model: share.samples for model, share in found.items() if share.samples} == {
        model: 2 * count for model, count in followed.items()
    }
    assert [model for model, share in found.items() if share.value] == [blamed] * bool(blamed)


def test_conversations_that_overlap_in_time_do_not_mix(store: Store, put: Put) -> None:
    put(
        [
            exchange(1, model="a", conversation_id="c1"),
            exchange(2, model="b", conversation_id="c2"),
            exchange(3, model="a", conversation_id="c1", reask=False),
            exchange(4, model="b", conversation_id="c2", reask=True),
        ]
    )
    found = slices(store)
    assert found["code", "a"].proxies.asked_again_after.value == 0.0
    assert found["code", "b"].proxies.asked_again_after.value == 1.0


def test_without_a_conversations_id_nobody_is_in_doubt_and_what_was_refused_is_no_answer(
    store: Store, put: Put
) -> None:
    put([exchange(1), exchange(2, reask=True)])
    put(
        [
            exchange(3, conversation_id="c", model="a"),
            exchange(4, conversation_id="c", refused=True, error="denied", model="", route=""),
            exchange(5, conversation_id="c", reask=True, model="a"),
        ]
    )
    found = slices(store)
    assert found["code", "small"].proxies.asked_again_after.samples == 0
    assert found["code", "a"].proxies.asked_again_after.value == 1.0
    assert ("", "") not in found


def test_they_are_told_beside_quality_and_never_as_quality(store: Store, put: Put) -> None:
    rows: list[AnyRow] = [exchange(n, finish_reason="length", refusal=True, reask=True) for n in range(40)]
    rows.append(EvaluationRow(time=BEGIN, request_id="r1", evaluation_id="e", name="feedback", score=1.0))
    put(rows)
    made = read_report(store)
    assert made is not None
    (part,) = made.slices
    assert list(part.quality) == ["feedback"]
    assert not [concern for concern in part.concerns if concern.kind == "quality"]
    assert part.severity == 0
    text, page = as_text(made), as_page(made)
    for name in PROXIES_HEAD:
        assert name in text
        assert f"<th>{name}</th>" in page
    assert PROXIES_TITLE in text
    assert f"<h2>{PROXIES_TITLE}</h2>" in page
    table = text[text.index(PROXIES_TITLE) :].splitlines()[1:5]
    assert any("feedback" in line for line in table)  # beside them
    assert any(line.count("100.0% [91.2%, 100.0%]") == 3 for line in table)


def test_where_nothing_was_seen_nothing_is_told(store: Store, traffic: Traffic) -> None:
    traffic("code", "small", 40)
    made = read_report(store)
    assert made is not None
    assert not made.slices[0].proxies.seen
    assert [share.value for share in made.slices[0].proxies.rates] == [None] * len(PROXIES_HEAD)
    assert PROXIES_TITLE not in as_text(made)
    assert PROXIES_TITLE not in as_page(made)

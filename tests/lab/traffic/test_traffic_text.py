"""What is told of traffic that was only observed, in words and on the page."""

import re

from extproc.lab.figures.number_formats import count, dollars, percent, score
from extproc.lab.store.record_store import Store
from extproc.lab.traffic.traffic_page import as_page
from extproc.lab.traffic.traffic_reading import read_report
from extproc.lab.traffic.traffic_text import as_text
from tests.docs.pages import ROOT
from tests.lab.traffic.conftest import Traffic

OBSERVED = {"good": None, "mode": "observe"}


def told(store: Store) -> tuple[str, str]:
    made = read_report(store)
    assert made is not None
    return as_text(made), as_page(made)


def test_it_is_said_what_switching_on_would_save(store: Store, traffic: Traffic) -> None:
    routed = {"would_route": "chat", "would_model": "small", "would_cost_usd": 0.5}
    traffic("", "large", 3, cost_usd=2.0, **routed, **OBSERVED)
    traffic("", "large", 1, cost_usd=2.0, reason="denied", **OBSERVED)
    sentence = (
        "4 requests (100.0%) were only observed; of 3 that can be compared, now $6.00, routed $1.50 for the "
        "same tokens: saves $4.50 (75.0%)"
    )
    for text in told(store):
        assert sentence in text
        assert "(refused: denied)" in text
    page = told(store)[1]
    assert "Cost now and routed" in page
    assert "chat → small" in page


def test_what_would_cost_more_is_said_to_cost_more(store: Store, traffic: Traffic) -> None:
    routed = {"would_route": "hard", "would_model": "large", "would_cost_usd": 3.0}
    traffic("", "small", 1, cost_usd=1.0, **routed, **OBSERVED)
    for text in told(store):
        assert "now $1.00, routed $3.00 for the same tokens: costs $2.00 more (200.0%)" in text


def test_without_usage_or_prices_no_saving_is_claimed(store: Store, traffic: Traffic) -> None:
    traffic("", "mid", 1, would_route="chat", would_model="small", **OBSERVED)
    text, page = told(store)
    for told_of in (text, page):
        assert "what routing saves is not known" in told_of
        assert "saves $" not in told_of
    assert "Cost now and routed" not in page


def test_traffic_that_was_all_routed_has_no_such_part(store: Store, traffic: Traffic) -> None:
    traffic("chat", "small", 3, mode="active")
    for text in told(store):
        assert "observed" not in text.lower()


def test_the_page_shows_the_columns_and_formats_that_are_printed(store: Store, traffic: Traffic) -> None:
    routed = {"would_route": "hard", "would_model": "large", "would_cost_usd": 3.0}
    traffic("", "small", 1, cost_usd=1.0, **routed, **OBSERVED)
    [head] = [line for line in told(store)[0].splitlines() if line.startswith("observed:")]
    shown = (ROOT / "docs" / "observe.md").read_text().partition("observed: would take")[2]
    first, *rows = shown.partition("\n...")[0].splitlines()
    assert re.split(r"\s{2,}", f"observed: would take{first}") == re.split(r"\s{2,}", head)
    formats = [count, percent, score, *[dollars] * 3, percent]
    for row in rows:
        cells = re.split(r"\s{2,}", row)[2:]
        assert [again(cell) for cell, again in zip(map(number, cells), formats, strict=True)] == cells


def number(cell: str) -> float:
    """The value that a cell shows."""
    bare = float(re.sub(r"[$,%]", "", cell))
    return bare / 100 if cell.endswith("%") else bare

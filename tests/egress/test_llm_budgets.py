"""The limits of questions to an LLM, by a clock of the test's own."""

from extproc.egress.llm_budgets import FAILURES, OPEN_S, Breaker, DollarBudget, ShareBudget


def test_a_share_allows_that_many_calls_of_all_requests() -> None:
    share, calls = ShareBudget(), 0
    for _ in range(800):
        share.note(0.125)
        if share.left():
            share.spend()
            calls += 1
    assert calls == 101  # and one for the first request


def test_a_share_saves_up_no_more_than_twenty_calls() -> None:
    share = ShareBudget()
    for _ in range(10_000):
        share.note(0.5)
    calls = 0
    while share.left():
        share.spend()
        calls += 1
    assert calls == 20


def test_an_hours_dollars_come_back_with_time() -> None:
    dollars = DollarBudget(now=0.0)
    assert dollars.left(2.0, now=0.0)
    dollars.charge(3.0)
    assert not dollars.left(2.0, now=0.0)
    assert not dollars.left(2.0, now=1799.0)
    assert dollars.left(2.0, now=1801.0)


def test_the_breaker_opens_after_failures_in_a_row_and_tries_one_call_after_a_pause() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.note(failed=True, now=0.0)
    breaker.note(failed=False, now=0.0)
    for _ in range(FAILURES - 1):
        breaker.note(failed=True, now=0.0)
    assert breaker.closed(0.0)
    breaker.note(failed=True, now=0.0)
    assert not breaker.closed(OPEN_S - 1)
    assert breaker.closed(OPEN_S + 1)
    breaker.begin(OPEN_S + 1)
    assert not breaker.closed(OPEN_S + 1)  # the first one tries alone
    breaker.note(failed=False, now=OPEN_S + 2)
    assert breaker.closed(OPEN_S + 2)

"""The words alone: when they are believed, what is compared, and when that ends."""

import logging
from uuid import UUID

import numpy as np
import pytest

from extproc.routing.fastpath import WINDOW, AgreementMonitor, FastPath, Words
from extproc.routing.lexical_features import WIDTH, lexical
from extproc.routing.trained_heads import Lexicon


def words(lead: float = 0.5) -> Words:
    """`refund` is of billing and `python` of coding; other words say nothing."""
    slots = np.full(WIDTH, 2, np.int32)
    slots[lexical(["python"]).columns] = 1
    slots[lexical(["refund"]).columns] = 0
    weights = np.array([[2, -2], [-2, 2], [0, 0]], np.float32)
    lexicon = Lexicon(slots, np.ones(WIDTH, np.float32), weights, 0.6)
    return Words(("billing", "coding"), lexicon, np.zeros(2, np.float32), 0.5, lead)


def test_words_that_say_enough_are_read_without_a_similarity() -> None:
    scores = words().read("Refund!")
    assert scores is not None
    assert [candidate.route for candidate in scores.candidates] == ["billing", "coding"]
    assert (scores.similarity, scores.nearest, scores.candidates[0].similarity) == (None, "", None)
    first, second = (candidate.probability for candidate in scores.candidates)
    assert first + second == pytest.approx(1.0)
    assert scores.margin == pytest.approx(first - second)
    assert scores.margin > 0.9


@pytest.mark.parametrize("text", ["", " \n", "...", "hello there", "refund python"])
def test_words_that_do_not_are_not_read(text: str) -> None:
    assert words().read(text) is None


def test_the_lead_is_what_decides() -> None:
    found = words(0.0).read("a refund for my friend, who wanted it")
    assert found is not None
    assert words(found.margin).read("a refund for my friend, who wanted it") is not None
    assert words(found.margin + 1e-6).read("a refund for my friend, who wanted it") is None


def test_a_lead_that_none_has_reads_nothing() -> None:
    assert words(2.0).read("refund") is None


def ids(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [str(UUID(bytes=random.bytes(16), version=4)) for _ in range(count)]


def test_the_sample_is_a_share_of_the_ids_the_same_everywhere_and_grows_with_the_share() -> None:
    few, many = (FastPath(words(), share, AgreementMonitor(0.98)) for share in (0.05, 0.2))
    chosen = {name for name in ids(20_000) if few.samples(name)}
    assert 0.04 < len(chosen) / 20_000 < 0.06
    assert all(many.samples(name) for name in chosen)
    assert chosen == {
        name for name in ids(20_000) if FastPath(words(), 0.05, AgreementMonitor(0.5)).samples(name)
    }


def test_a_request_without_an_id_is_of_the_sample() -> None:
    assert FastPath(words(), 0.001, AgreementMonitor(0.98)).samples("")


def test_it_ends_when_agreement_is_surely_too_low_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = AgreementMonitor(0.98)
    with caplog.at_level(logging.WARNING):
        for number in range(400):
            watch.note(agreed=number % 10 != 0)
    assert watch.ended
    (message,) = caplog.messages
    assert "until the next version of the registry" in message
    for _ in range(WINDOW):
        watch.note(agreed=True)
    assert watch.ended


@pytest.mark.parametrize("agreement", [0.98, 0.99])
def test_agreement_as_asked_for_does_not_end_it(agreement: float) -> None:
    for seed in range(20):
        watch = AgreementMonitor(0.975)
        for agreed in np.random.default_rng(seed).random(3000) < agreement:
            watch.note(agreed=bool(agreed))
        assert not watch.ended


def test_a_first_disagreement_alone_proves_nothing() -> None:
    watch = AgreementMonitor(0.9)
    watch.note(agreed=False)
    assert not watch.ended


def test_what_was_long_ago_does_not_hide_what_is_now() -> None:
    watch = AgreementMonitor(0.95)
    for _ in range(50 * WINDOW):
        watch.note(agreed=True)
    for number in range(WINDOW):
        watch.note(agreed=number % 5 != 0)
    assert watch.ended

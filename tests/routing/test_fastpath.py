"""The words alone: when they are believed, what is compared, and when that ends."""

import logging
from uuid import UUID

import msgspec
import numpy as np
import pytest

from extproc.routing.fastpath import NEVER, WINDOW, Agreement, AgreementMonitor, Words
from extproc.vocabulary import Scores
from tests.routing.fast_path_words import SameVector, fast_path_of, words_of


def words(least: float = 0.5) -> Words:
    """`refund` is of billing and `python` of coding; other words say nothing."""
    return words_of(
        ("billing", "coding"), {"refund": [2, -2], "python": [-2, 2]}, least=least, temperature=0.5
    )


def read(text: str, least: float = 0.5) -> Scores | None:
    return words(least).read(text, SameVector())


def test_words_that_say_enough_are_read_without_a_similarity() -> None:
    scores = read("Refund!")
    assert scores is not None
    assert [candidate.route for candidate in scores.candidates] == ["billing", "coding"]
    assert (scores.similarity, scores.nearest, scores.candidates[0].similarity) == (None, "", None)
    first, second = (candidate.probability for candidate in scores.candidates)
    assert first + second == pytest.approx(1.0)
    assert scores.margin == pytest.approx(first - second)
    assert scores.margin > 0.9


@pytest.mark.parametrize("text", ["", " \n", "...", "hello there", "refund python"])
def test_words_that_do_not_are_not_read(text: str) -> None:
    assert read(text) is None


def test_the_probability_of_agreement_is_what_decides() -> None:
    unsure = "a refund for my friend, who wanted it"
    found = read(unsure, least=0.0)
    assert found is not None
    chance = 1 / (1 + ((1 - found.margin) / 0.5) ** 2)  # as ``words_of`` says
    assert read(unsure, least=chance - 1e-4) is not None
    assert read(unsure, least=chance + 1e-4) is None


def test_words_that_are_never_enough_read_nothing() -> None:
    assert read("refund", least=NEVER) is None


def test_a_route_that_the_encoder_often_doubts_needs_more() -> None:
    plain = words()
    doubted = msgspec.structs.replace(
        plain, agreement=msgspec.structs.replace(plain.agreement, biases=np.array([-20.0, 0.0]))
    )
    assert doubted.read("refund", SameVector()) is None
    assert doubted.read("python", SameVector()) is not None


def test_a_measure_far_from_all_that_training_saw_outweighs_no_other() -> None:
    agreement = Agreement(np.zeros(3), np.ones(3), np.ones(3), np.zeros(1))
    far, farther = (agreement.standard(np.array([[size, 0.0, -size]])) for size in (100.0, 10_000.0))
    assert np.array_equal(far, farther)


def ids(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [str(UUID(bytes=random.bytes(16), version=4)) for _ in range(count)]


def test_the_sample_is_a_share_of_the_ids_the_same_everywhere_and_grows_with_the_share() -> None:
    few, many = (fast_path_of(words(), share) for share in (0.05, 0.2))
    chosen = {name for name in ids(20_000) if few.samples(name)}
    assert 0.04 < len(chosen) / 20_000 < 0.06
    assert all(many.samples(name) for name in chosen)
    assert chosen == {name for name in ids(20_000) if fast_path_of(words(), 0.05, 0.5).samples(name)}


def test_a_request_without_an_id_is_of_the_sample() -> None:
    assert fast_path_of(words(), 0.001).samples("")


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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.spelling import Speller

VOCABULARY = {
    word: rank
    for rank, word in enumerate(
        [
            "what",
            "is",
            "the",
            "my",
            "for",
            "card",
            "cart",
            "balance",
            "please",
            "credit",
            "with",
            "weather",
            "in",
            "paris",
        ]
    )
}


@pytest.fixture
def speller() -> Speller:
    return Speller(VOCABULARY, ["freeze my gold card", "is the klarna invoice due"])


@pytest.mark.parametrize("misspelt", ["balnace", "balanc", "ballance", "bakance", "balancee"])
def test_a_word_one_edit_away_is_corrected(speller: Speller, misspelt: str) -> None:
    assert speller.correct(f"what is the {misspelt}") == ("what is the balance", 1)


def test_a_word_of_the_examples_comes_before_a_frequent_one(speller: Speller) -> None:
    assert speller.correct("what is the carx for") == ("what is the card for", 1)


def test_words_that_the_examples_know_stay(speller: Speller) -> None:
    assert speller.correct("is the klarna invoice due") == ("is the klarna invoice due", 0)


def test_names_in_capitals_identifiers_and_short_words_stay(speller: Speller) -> None:
    for text in ("what is the BALNACE for", "what is the cardNumbr for", "what is teh for my card"):
        assert speller.correct(text) == (text, 0)


def test_a_capital_at_the_beginning_of_a_word_is_no_obstacle(speller: Speller) -> None:
    assert speller.correct("Balnace for my card please") == ("balance for my card please", 1)


def test_a_text_of_mostly_unknown_words_is_another_language_and_stays(speller: Speller) -> None:
    text = "wie ist das wetter in paris"
    assert speller.correct(text) == (text, 0)


def test_a_document_is_not_corrected(speller: Speller) -> None:
    text = "what is the balnace for my card please " * 20
    assert speller.correct(text) == (text, 0)


@given(st.text(max_size=200))
def test_any_text_can_be_read_and_a_corrected_one_stays(text: str) -> None:
    speller = Speller(VOCABULARY, ["freeze my card"])
    corrected, count = speller.correct(text)
    assert (count == 0) == (corrected == text)


def test_a_text_of_many_unknown_words_takes_no_time_and_stays(speller: Speller) -> None:
    text = "what is the card " * 12 + "zzzzqqqqxxxxwwww " * 9
    assert speller.correct(text) == (text, 0)

from collections.abc import Sequence

import numpy as np
import pytest

from extproc.routing.turn_reading import TurnReader, fit_reader

WORDS = ["balance", "account", "card", "weather", "rain", "council", "harbour", "approved", "the", "what"]


class WordCounts:
    """A static encoder whose components are counts of words; documents speak of councils and harbours."""

    def __init__(self) -> None:
        self.words = {word: rank for rank, word in enumerate(WORDS)}
        self.asked: list[str] = []
        self.documents = self._vectors(["the council approved the harbour"])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return self._vectors(texts)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array(
            [[text.lower().split().count(word) for word in WORDS] for text in texts], np.float32
        )
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def static() -> WordCounts:
    return WordCounts()


@pytest.fixture
def reader(static: WordCounts) -> TurnReader:
    examples = ["balance account", "card balance", "weather", "rain weather"]
    reader = fit_reader(static, examples, np.array([0, 0, 1, 1]), 2)
    static.asked.clear()
    return reader


DOCUMENT = " ".join(["The council approved the harbour."] * 9)


@pytest.mark.parametrize("turn", ["{}\n\nwhat balance", "what balance\n\n{}", "{}\nwhat balance\n{}"])
def test_the_sentence_like_an_example_is_read_wherever_it_stands(reader: TurnReader, turn: str) -> None:
    assert reader.read(turn.replace("{}", DOCUMENT)).text == "what balance"


def test_a_turn_of_one_sentence_is_read_whole_without_comparing_anything(
    reader: TurnReader, static: WordCounts
) -> None:
    assert reader.read("what balance").part == "whole"
    assert static.asked == []


def test_of_two_questions_the_one_like_an_example_is_read(reader: TurnReader) -> None:
    assert reader.read(f"what harbour\n{DOCUMENT}\nwhat rain").text == "what rain"


def test_a_document_alone_is_read_without_failing(reader: TurnReader) -> None:
    assert reader.read(DOCUMENT).text in DOCUMENT


def test_misspelt_words_of_the_piece_are_corrected_and_counted(reader: TurnReader) -> None:
    found = reader.read(f"{DOCUMENT}\n\nwhat balnace")
    assert (found.text, found.misspelt) == ("what balance", 1)

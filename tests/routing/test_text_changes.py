"""A change keeps the meaning of a text and most of its letters, and is the same each time."""

import re
from importlib import resources
from random import Random

import pytest

from extproc.routing.text_changes import COURTESIES, TextChange, changed, misspelt

TEXT = "What's my bank balance, please?"


@pytest.mark.parametrize("change", TextChange)
def test_the_same_text_and_seed_give_the_same_change(change: TextChange) -> None:
    assert changed(TEXT, change, 3) == changed(TEXT, change, 3) != TEXT
    assert len({changed(TEXT, change, seed) for seed in range(30)}) > 1


@pytest.mark.parametrize(("change", "words"), [(TextChange.TYPO, 1), (TextChange.TWO_TYPOS, 2)])
def test_a_typing_mistake_changes_as_many_words_as_it_names(change: TextChange, words: int) -> None:
    for seed in range(100):
        pairs = list(zip(TEXT.split(), changed(TEXT, change, seed).split(), strict=True))
        different = [(old, new) for old, new in pairs if old != new]
        assert len(different) == words
        assert all(len(old) >= 4 and abs(len(old) - len(new)) <= 1 for old, new in different)


def test_every_kind_of_typing_mistake_occurs() -> None:
    found = {misspelt("word", 1, Random(seed)) for seed in range(300)}
    assert {"owrd", "wrd", "wwoord"[1:], "wprd", "eord"} <= found
    assert "word" not in found


def test_a_misspelt_text_keeps_its_whitespace() -> None:
    text = "first line\n\n  second\tline"
    for seed in range(30):
        assert re.findall(r"\s+", misspelt(text, 2, Random(seed))) == re.findall(r"\s+", text)


def test_case_and_punctuation_keep_the_letters() -> None:
    def letters(text: str) -> str:
        return "".join(filter(str.isalpha, text)).lower()

    for seed in range(30):
        for change in (TextChange.CASE, TextChange.PUNCTUATION):
            assert letters(changed(TEXT, change, seed)) == letters(TEXT)
        assert changed(TEXT, TextChange.CASE, seed).lower() == TEXT.lower()


def test_numbers_keep_their_points() -> None:
    assert all("3.5" in changed("add 3.5, 7", TextChange.PUNCTUATION, seed) for seed in range(30))


def test_courtesy_keeps_the_text_as_it_is_even_if_it_has_braces() -> None:
    assert all("say {} twice" in changed(" say {} twice ", TextChange.COURTESY, seed) for seed in range(30))
    assert changed("x", TextChange.COURTESY, 0, ["dear {}"]) == "dear x"


@pytest.mark.parametrize("text", ["", "  ", "123", "?", "a", "\ud800"])
@pytest.mark.parametrize("change", TextChange)
def test_a_text_to_which_a_change_does_not_apply_is_no_error(text: str, change: TextChange) -> None:
    assert isinstance(changed(text, change, 0), str)


def test_measuring_uses_no_courtesy_of_training() -> None:
    lines = resources.files("extproc.lab.train").joinpath("courtesies.txt").read_text("utf-8").splitlines()
    assert set(COURTESIES).isdisjoint(lines)
    assert all(line.count("{}") == 1 for line in [*COURTESIES, *lines])

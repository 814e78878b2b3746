"""Folded text is what a reader sees; ASCII never changes, and no text makes it slow."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.safety.confusables import CONFUSABLES
from extproc.safety.text_folding import folded

ASCII = [chr(code) for code in range(0x20, 0x7F)]
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202e\ufe0f\u034f\u180e\u3164\U000e0041\U000e0100"
MARKS = "\u0301\u0336\u20dd"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("ＡＫＩＡ　１２３４", "AKIA 1234"),
        ("4\u200b1\u20601\u00ad1", "4111"),
        ("p\u0336a\u0336s\u0336s", "pass"),
        ("٤١١١ ४१११", "4111 4111"),
        ("𝟒𝟏𝟏𝟏 𝒑𝒂𝒔𝒔 ⓟⓐⓢⓢ", "4111 pass pass"),
        ("раѕѕwоrd АКІА", "password AKIA"),  # Cyrillic
        ("ΑΚΙΑ", "AKIA"),  # Greek
        ("4111–1111‑1111−1111", "4111-1111-1111-1111"),
        ("naïve cafe\u0301", "naïve café"),
        ("漢字 かな", "漢字 かな"),
        ("\ud800x", "\ud800x"),
    ],
)
def test_text_is_folded_to_what_is_seen(typed: str, seen: str) -> None:
    assert folded(typed) == seen


@given(st.text(st.characters(max_codepoint=0x7F)))
def test_ascii_stays_the_very_same_object(text: str) -> None:
    assert folded(text) is text


@given(st.text(), st.text(st.characters(max_codepoint=0x7F), max_size=9))
def test_every_ascii_character_stays_in_any_text(text: str, plain: str) -> None:
    assert plain in folded(f"{text}\n{plain}\n{text}")


@given(st.text())
def test_folding_twice_changes_nothing_more(text: str) -> None:
    assert folded(folded(text)) == folded(text)


def disguises(character: str) -> st.SearchStrategy[str]:
    """Ways to write an ASCII letter or digit that read as itself."""
    wide = chr(ord(character) + 0xFEE0)
    twins = [twin for twin in CONFUSABLES.get(character, "") if unicodedata.category(twin)[0] in "LN"]
    return st.tuples(
        st.sampled_from([character, wide, *twins]), st.text(st.sampled_from(INVISIBLE), max_size=2)
    ).map("".join)


@given(st.text(st.sampled_from("AKIZ0459bdez"), min_size=1, max_size=20).flatmap(
    lambda text: st.tuples(st.just(text), st.tuples(*map(disguises, text)).map("".join))
))  # fmt: skip
def test_a_disguised_text_is_folded_to_the_text(pair: tuple[str, str]) -> None:
    text, disguised = pair
    assert folded(disguised) == text


@pytest.mark.parametrize(
    "text", ["a" + "\u0301\u0316" * 500_000, "\ufdfa" * 500_000, MARKS * 300_000, INVISIBLE * 50_000]
)
def test_no_text_is_slow_or_grows(text: str) -> None:
    # Sorting a million marks in quadratic time would take hours, and this test would never end.
    assert len(folded(text)) <= len(text)

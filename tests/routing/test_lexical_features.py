import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.lexical_features import BUCKETS, LONGEST, WIDTH, lexical


def features(text: str) -> set[int]:
    return set(lexical([text]).columns.tolist())


def words(text: str) -> set[int]:
    return {column for column in features(text) if column < BUCKETS}


@given(st.lists(st.text(max_size=60), max_size=5))
def test_a_text_has_the_same_features_alone_and_among_others(texts: list[str]) -> None:
    together = lexical(texts)
    assert len(together) == len(texts)
    for row, text in enumerate(texts):
        alone = lexical([text])
        np.testing.assert_array_equal(together.row(row), alone.columns)
        assert together.words[row] == alone.words[0]


@given(st.text(max_size=200))
def test_columns_are_distinct_sorted_and_words_come_first(text: str) -> None:
    found = lexical([text])
    assert (np.diff(found.columns) > 0).all()
    assert ((found.columns >= 0) & (found.columns < WIDTH)).all()
    assert (found.columns < BUCKETS).sum() == found.words[0]


def test_case_and_punctuation_do_not_matter() -> None:
    assert features("What's my Balance?!") == features("  what's -- my balance")


def test_the_order_of_words_matters_only_to_pairs_and_characters() -> None:
    forward, backward = words("pay the bill"), words("bill the pay")
    assert forward != backward
    assert len(forward & backward) == 3  # the words themselves


def test_a_typo_keeps_most_characters() -> None:
    right, typo = features("transfer money to my savings"), features("tranfser money to my savings")
    assert len(right & typo) / len(right | typo) > 0.6


def test_other_scripts_have_features_and_no_text_has_none() -> None:
    assert features("日本の首都はどこですか") != features("今日の天気はどうですか")
    assert features("") == features("?!") == set()


def test_half_a_surrogate_pair_is_a_character_like_others() -> None:
    assert features("\ud800 hello")


def test_of_a_long_text_both_ends_count_and_the_middle_does_not() -> None:
    start, end = "alpha " * 400, "omega " * 400
    assert len(start) > LONGEST
    assert features(start + "between " * 500 + end) == features(start + "other " * 900 + end)


def test_the_hash_is_what_artefacts_were_trained_with() -> None:
    """A change here makes every artefact's lexical weights meaningless: raise its format."""
    assert lexical(["hello world"]).columns.tolist() == [
        27777,
        40741,
        45215,
        49190,
        49583,
        68166,
        68607,
        71119,
        76661,
        77404,
        77572,
        80506,
        82260,
        82839,
        86262,
        87676,
        88682,
        89757,
        91793,
        93416,
        99860,
        100214,
        102355,
        102464,
        105189,
        110484,
        111650,
        114167,
        114650,
        116005,
        117076,
        118718,
        123246,
        126787,
        130101,
    ]

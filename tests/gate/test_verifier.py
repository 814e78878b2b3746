"""What a verifier is asked, and what its word is taken for."""

import json

import pytest

from extproc.gate.verifier import PROMPT, request, score


def test_question_and_answer_are_shown_to_it() -> None:
    body = json.loads(request("judge-9b", "Where?", "In Bern."))
    assert (body["model"], body["stream"]) == ("judge-9b", False)
    told, shown = body["messages"]
    assert told == {"role": "system", "content": PROMPT}
    assert shown == {"role": "user", "content": "QUESTION:\nWhere?\n\nANSWER:\nIn Bern."}


def test_an_operators_own_words_replace_ours() -> None:
    assert json.loads(request("m", "q", "a", "Be strict."))["messages"][0]["content"] == "Be strict."


def test_of_a_long_answer_it_sees_beginning_and_end() -> None:
    shown = json.loads(request("m", "q", "a" * 50_000 + "the end"))["messages"][1]["content"]
    assert len(shown) < 17_000
    assert shown.endswith("the end")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("0.85", 0.85), ("1", 1.0), ("Score: 0.", 0.0), ("I see 3 mistakes, so 0.1", 0.1), ("{\"score\": 0.5}", 0.5),
        ("9/10", None), ("-0.5", None), ("85%", None), ("good", None), ("", None),
    ],
)  # fmt: skip
def test_its_word_is_the_last_number_it_says(word: str, found: float | None) -> None:
    assert score(word) == found

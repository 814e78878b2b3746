"""A request that asks what its conversation asked before, in every API that shows the conversation."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import apis
from extproc.apis.repeated_question import LEAST_WORDS, SIMILAR, TURNS, asks_again, earlier_turns
from extproc.vocabulary import Api, ChatRequest

WORDS = st.lists(st.sampled_from([f"w{n}" for n in range(40)]), min_size=LEAST_WORDS, max_size=60)


def again(text: str, *earlier: str) -> bool | None:
    """``earlier`` as it was asked, the oldest first."""
    return asks_again(text, earlier_turns(reversed(earlier)))


@pytest.mark.parametrize(
    ("text", "earlier"),
    [
        ("How do I sort a list?", "How do I sort a list?"),
        ("HOW do I sort\n a list??", "how do i sort a list"),
        (
            "how do i sort a list of words in python please now",
            "how do i sort a list of words in python please",
        ),
        ("Wie sortiere ich das ß in Straße?", "wie sortiere ich das SS in STRASSE"),
        ("如何对列表进行排序？", "如何对列表进行排序"),
        ("как отсортировать список", "Как отсортировать список?"),
    ],
)
def test_the_same_words_again_or_nearly_are_a_question_asked_again(text: str, earlier: str) -> None:
    assert again(text, earlier) is True
    assert again(text, earlier, "something else in between") is True


@pytest.mark.parametrize(
    ("text", "earlier"),
    [
        ("How do I sort a dictionary by its values?", "How do I sort a list of words?"),
        ("Now write the tests for it", "Write a function that sorts a list"),
        ("sort a list how do I do that", "how do I do that sort a list"),
        ("how do i sort a list", "how do i sort a list and then remove all of its duplicates in one pass"),
        ("如何对字典进行反转", "如何对列表进行排序"),
    ],
)
def test_another_question_is_none(text: str, earlier: str) -> None:
    assert again(text, earlier) is False


@pytest.mark.parametrize(
    ("text", "earlier"),
    [
        ("How do I sort a list?", ()),
        ("How do I sort a list?", ("", "")),
        ("go on", ("go on",)),
        ("Yes!", ("Yes!", "Yes!")),
        ("", ("How do I sort a list?",)),
        ("👍 👍 👍", ("👍 👍 👍",)),
    ],
)
def test_of_a_first_turn_and_of_a_word_or_two_nothing_is_known(text: str, earlier: tuple[str, ...]) -> None:
    assert again(text, *earlier) is None


def test_what_frames_every_turn_is_not_the_question() -> None:
    frame = "You will find the rules of this house below, heed them. " * 40
    assert (
        again(f"{frame}How many windows does it have?", f"{frame}Who built it, and in which year?") is False
    )
    assert again(f"{frame}Who built it?", f"{frame}Who built it?") is True
    assert again(f"How many windows? {frame}", f"Who built it, and when was that? {frame}") is False


def test_only_the_latest_turns_are_compared() -> None:
    others = [f"question number {n} is about topic {n}" for n in range(TURNS)]
    assert again("is it so or not", "is it so or not", *others[1:]) is True
    assert again("is it so or not", "is it so or not", *others) is False


@given(WORDS, st.randoms())
def test_case_punctuation_and_space_do_not_count(words: list[str], random: Any) -> None:
    spoilt = "".join(
        (word.upper() if random.random() < 0.5 else word) + random.choice([" ", "  ", "\n", ", ", "! "])
        for word in words
    )
    plain = " ".join(words)
    if max(len(spoilt), len(plain)) <= 512:  # longer ones are cut, each at its own place
        assert again(spoilt, plain) is True


@given(WORDS, WORDS)
def test_it_says_of_two_texts_what_their_trigrams_say_whichever_comes_first(
    first: list[str], second: list[str]
) -> None:
    texts = " ".join(first), " ".join(second)
    ours, theirs = (set(zip(w, w[1:], w[2:], strict=False)) for w in (first, second))
    alike = len(ours & theirs) / len(ours | theirs) >= SIMILAR
    alike &= max(map(len, texts)) <= 2 * min(map(len, texts))
    assert again(*texts) is again(*reversed(texts)) is alike


@given(st.text(), st.lists(st.text(), max_size=8))
def test_any_text_gives_an_answer_and_itself_is_itself(text: str, earlier: list[str]) -> None:
    told = again(text, *earlier)
    assert told in (True, False, None)
    assert again(text, *earlier, text) in (True, None)


# --- What each API shows of a conversation ------------------------------------------------------


def turns(*texts: str) -> list[dict[str, Any]]:
    """A conversation of these turns of the user, each answered but the last."""
    said = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Well."}] for text in texts]
    return [message for pair in said for message in pair][:-1]


def parsed(api: Api, messages: list[Any], **more: Any) -> ChatRequest:
    where = "input" if api is Api.OPENAI_RESPONSES else "messages"
    return apis.parse(api, json.dumps({"model": "auto", "max_tokens": 9, where: messages, **more}).encode())


CONVERSING = [Api.OPENAI_CHAT, Api.OPENAI_RESPONSES, Api.ANTHROPIC_MESSAGES]


@pytest.mark.parametrize("api", CONVERSING)
def test_the_users_earlier_turns_are_told_latest_first(api: Api) -> None:
    assert parsed(api, turns("one", "two", "three")).earlier == ("two", "one")
    assert parsed(api, turns("one")).earlier == ()


@pytest.mark.parametrize("api", CONVERSING)
def test_parts_are_joined_and_turns_without_text_are_passed_over(api: Api) -> None:
    kind = "input_text" if api is Api.OPENAI_RESPONSES else "text"
    messages = turns("one", "two", "three")
    messages[0]["content"] = [{"type": kind, "text": "a"}, {"type": kind, "text": "b"}]
    messages[2]["content"] = [{"type": "image"}]
    assert parsed(api, messages).earlier == ("a\nb",)


@pytest.mark.parametrize("api", CONVERSING)
def test_a_request_that_goes_on_with_an_answer_asks_nothing(api: Api) -> None:
    messages = [*turns("one", "one"), {"role": "assistant", "content": "So"}]
    request = parsed(api, messages)
    assert (request.user_text, request.earlier) == ("one", ())


@pytest.mark.parametrize(
    ("api", "result"),
    [
        (Api.OPENAI_CHAT, [{"role": "tool", "tool_call_id": "c", "content": "42"}]),
        (Api.OPENAI_RESPONSES, [{"type": "function_call_output", "call_id": "c", "output": "42"}]),
        (
            Api.ANTHROPIC_MESSAGES,
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c", "content": "42"},
                        {"type": "text", "text": "one"},
                    ],
                }
            ],
        ),
    ],
)
def test_a_request_that_goes_on_with_a_tools_result_asks_nothing(api: Api, result: list[Any]) -> None:
    assert parsed(api, [*turns("one", "one"), *result]).earlier == ()


def test_what_the_provider_keeps_and_plain_completions_show_no_conversation() -> None:
    body = {"model": "auto", "input": "one", "previous_response_id": "r"}
    assert apis.parse(Api.OPENAI_RESPONSES, json.dumps(body).encode()).earlier == ()
    body = {"model": "auto", "prompt": "one"}
    assert apis.parse(Api.OPENAI_COMPLETIONS, json.dumps(body).encode()).earlier == ()


@pytest.mark.parametrize("api", CONVERSING)
def test_what_is_kept_for_comparing_is_short_whatever_was_sent(api: Api) -> None:
    request = parsed(api, turns(*["x" * 100_000] * 50))
    assert len(request.earlier) == TURNS
    assert max(map(len, request.earlier)) < 1024

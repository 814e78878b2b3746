"""What a rule reads of a request: how much of it, and in which forms."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from extproc.routing import rules
from extproc.routing.rule_reading import Reading, text_of
from extproc.vocabulary import Api, ChatRequest, Passage, Question, RequestHead, Scope

CARD = r"\b\d{16}\b"


def question(
    *turns: Passage, latest: Passage = ("hi",), everything: tuple[Passage, ...] | None = None
) -> Question:
    request = ChatRequest(
        Api.OPENAI_CHAT, "auto", {}, "\n".join(latest), 100, user_parts=latest, user_turns=(*turns, latest)
    )
    read = None if everything is None else lambda: everything
    return Question(request, RequestHead("POST", "/v1/chat/completions", {}), everything=read)


def found(pattern: str, scope: Scope, asked: Question) -> bool:
    return rules.regex_in_text(pattern, scope)(Reading(asked))


def test_a_rule_reads_as_much_as_its_scope_says() -> None:
    asked = question(("an earlier turn",), latest=("the latest",), everything=(("a system prompt",),))
    words = {"latest": Scope.LATEST_USER, "earlier": Scope.ALL_USER, "system": Scope.EVERYTHING}
    assert {word: found(word, scope, asked) for word, scope in words.items()} == dict.fromkeys(words, True)
    assert not found("earlier", Scope.LATEST_USER, asked)
    assert not found("system", Scope.ALL_USER, asked)


def test_everything_is_read_only_when_a_rule_asks_for_it() -> None:
    def never() -> tuple[Passage, ...]:
        raise AssertionError("nobody asked")

    asked = Question(question().request, question().head, everything=never)
    rule = rules.CompiledRule("r", (rules.regex_in_text("x", Scope.ALL_USER),), deny="no")
    assert rules.first_that_holds((rule,), asked) is None


def test_everything_of_a_question_without_a_body_is_what_the_user_says() -> None:
    assert found("earlier", Scope.EVERYTHING, question(("earlier",)))


@given(st.lists(st.integers(0, 16), max_size=6))
def test_a_number_split_over_parts_anywhere_is_found(cuts: list[int]) -> None:
    digits, places = "4111111111111111", [0, *sorted(cuts), 16]
    parts = tuple(digits[a:b] for a, b in itertools.pairwise(places))
    assert found(CARD, Scope.LATEST_USER, question(latest=("pay with", " ", *parts, " ", "please")))


def test_a_word_at_the_edge_of_a_part_is_still_a_word() -> None:
    asked = question(latest=("one", "secret", "two"))
    assert rules.keyword_in_text(["secret"])(Reading(asked))


def test_no_text_reaches_from_one_turn_into_another() -> None:
    asked = question(("41111111",), latest=("11111111",))
    assert not found(r"\d{16}", Scope.ALL_USER, asked)
    assert not found(r"\d{8}\s*\d{8}", Scope.ALL_USER, asked)
    assert not found(r"4.*11111111", Scope.ALL_USER, question(("4",), latest=("11111111",)))


def test_an_anchor_means_where_any_turn_begins_and_ends() -> None:
    asked = question(("ignore all rules",), latest=("hello there",))
    for pattern in (r"^ignore", r"rules$", r"\Ahello", r"there\z"):
        assert found(pattern, Scope.ALL_USER, asked)
    assert not found(r"^all", Scope.ALL_USER, asked)


def test_the_text_itself_is_matched_beside_its_folded_form() -> None:
    asked = question(latest=("секрет ＡＢＣ",))
    assert found("секрет", Scope.LATEST_USER, asked)
    assert found("ABC", Scope.LATEST_USER, asked)
    assert found("ＡＢＣ", Scope.LATEST_USER, asked)


def test_characters_are_counted_as_they_came() -> None:
    assert text_of([("ab", "ｃ"), ("d",)]).chars == len("ab\nｃ\nd")


def test_plain_text_in_one_part_has_one_form() -> None:
    text = "a plain question"
    read = text_of([(text,)])
    assert read.forms == (text,)
    assert read.whole == text

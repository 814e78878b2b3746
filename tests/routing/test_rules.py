import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing import rules
from extproc.routing.rules import CompiledRule, Condition, Reading, text_of
from extproc.vocabulary import Api, ChatRequest, Passage, Question, RequestHead, Scope


def ask(
    text: str = "",
    *,
    model: str = "auto",
    path: str = "/v1/chat/completions",
    tools: tuple[str, ...] = (),
    images: int = 0,
    body_bytes: int = 100,
    headers: dict[str, str] | None = None,
) -> Question:
    return Question(
        ChatRequest(Api.OPENAI_CHAT, model, {}, text, body_bytes, tools=tools, images=images),
        RequestHead("POST", path, headers or {}),
    )


@pytest.mark.parametrize(
    ("condition", "holds", "does_not"),
    [
        (rules.path_like(["/v1/*"]), ask(path="/v1/chat?x=/v2/"), ask(path="/v2/chat?x=/v1/")),
        (rules.path_like(["/a", "/b"]), ask(path="/b"), ask(path="/bb")),
        (rules.model_like(["gpt-4*"]), ask(model="gpt-4o"), ask(model="my-gpt-4o")),
        (rules.tool_like(["browser_*"]), ask(tools=("x", "browser_open")), ask(tools=("open_browser_",))),
        (rules.header_in("X-Tier", ["free"]), ask(headers={"x-tier": "free"}), ask(headers={"x-tier": "freer"})),
        (rules.header_in("x-tier", ["free"]), ask(headers={"x-tier": "free"}), ask()),
        (rules.media_present(True), ask(images=1), ask()),
        (rules.media_present(False), ask(), ask(images=2)),
        (rules.chars_between(3, None), ask("äöü"), ask("äö")),
        (rules.chars_between(None, 3), ask("äöü"), ask("äöüß")),
        (rules.bytes_between(10, 20), ask(body_bytes=20), ask(body_bytes=21)),
        (rules.keyword_in_text(["refund", "pay back"]), ask("Please PAY BACK!"), ask("please repay backwards")),
        (rules.keyword_in_text(["привет"]), ask("Привет, мир"), ask("приветливый")),
        (rules.keyword_in_text(["c++"]), ask("write c++ code"), ask("write c code")),
        (rules.regex_in_text(r"\b\d{4}\b"), ask("pin 1234"), ask("pin 12345")),
    ],
)  # fmt: skip
def test_a_condition_holds_for_what_it_names_and_nothing_else(
    condition: Condition, holds: Question, does_not: Question
) -> None:
    assert condition(Reading(holds))
    assert not condition(Reading(does_not))


def test_a_rule_holds_only_when_all_its_conditions_do() -> None:
    rule = CompiledRule("r", (rules.model_like(["a"]), rules.media_present(True)), deny="no")
    assert rule.holds(Reading(ask(model="a", images=1)))
    assert not rule.holds(Reading(ask(model="a")))
    assert not rule.holds(Reading(ask(model="b", images=1)))


def test_the_first_rule_that_holds_wins() -> None:
    any_model = rules.model_like(["*"])
    first, second = (
        CompiledRule("first", (any_model,), model="x"),
        CompiledRule("second", (any_model,), model="y"),
    )
    assert rules.first_that_holds((first, second), ask()) is first
    assert rules.first_that_holds((), ask()) is None


def test_no_pattern_is_slow_on_a_hostile_text() -> None:
    # A backtracking engine needs 2^40 steps here; RE2 answers at once, or this test never ends.
    assert not rules.regex_in_text(r"(a+)+$")(Reading(ask("a" * 40 + "!")))


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

import pytest

from extproc.routing import rules
from extproc.routing.rule_reading import Reading
from extproc.routing.rules import CompiledRule, Condition
from extproc.vocabulary import Api, ChatRequest, Question, RequestHead


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

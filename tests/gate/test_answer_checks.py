"""What each check of a gate rejects."""

from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.model_answer import Finish, ModelAnswer, ToolCall
from extproc.gate import answer_checks
from extproc.gate.judged_request import Format, JudgedRequest
from extproc.gate.refusal_patterns import PATTERNS
from extproc.vocabulary import Api

ANY = JudgedRequest(api=Api.OPENAI_CHAT)

# --- How the answer ended ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(finish=Finish.STOP), ""),
        (ModelAnswer(finish=Finish.TOOL_CALLS), ""),
        (ModelAnswer(finish=Finish.UNKNOWN, complete=False), ""),
        (ModelAnswer(finish=Finish.LENGTH), "truncated"),
        (ModelAnswer(finish=Finish.CONTENT_FILTER), "content_filter"),
        (ModelAnswer(failed=True), "failed"),
        (ModelAnswer(status=429), "failed"),
        (ModelAnswer(status=204, finish=Finish.STOP), ""),
    ],
)
def test_an_answer_must_end_as_answers_do(answer: ModelAnswer, reason: str) -> None:
    assert answer_checks.check_finish(ANY, answer) == reason


def test_whoever_asks_for_a_few_tokens_gets_a_few() -> None:
    cut = ModelAnswer(text="yes", finish=Finish.LENGTH)
    assert answer_checks.check_finish(JudgedRequest(api=Api.OPENAI_CHAT, max_tokens=1), cut) == ""
    assert answer_checks.check_finish(JudgedRequest(api=Api.OPENAI_CHAT, max_tokens=1000), cut) == "truncated"


# --- Its length -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(text=" \n"), "empty"),
        (ModelAnswer(text=" \n", complete=False), ""),
        (ModelAnswer(text="No."), "too_short"),
        (ModelAnswer(text="No.", complete=False), ""),
        (ModelAnswer(text="Not at all."), ""),
        (ModelAnswer(text="x" * 41), "too_long"),
        (ModelAnswer(text="x" * 41, complete=False), "too_long"),
        (ModelAnswer(tool_calls=(ToolCall("f", "{}"),)), ""),
    ],
)
def test_an_answer_is_as_long_as_the_gate_says(answer: ModelAnswer, reason: str) -> None:
    assert answer_checks.length_between(5, 40)(ANY, answer) == reason


def test_without_a_most_any_length_passes() -> None:
    assert answer_checks.length_between(1, None)(ANY, ModelAnswer(text="x" * 100_000)) == ""


# --- Refusals ---------------------------------------------------------------------------------------


REFUSALS = {
    "en": [
        "I'm sorry, but I can't help with that.",
        "I cannot provide you with his address.",
        "I’m unable to assist with this request.",
        "Unfortunately, that is something I am not able to do.",
        "I must respectfully decline to write this.",
        "I must respectfully decline.",
        "I canʼt help with that.",
        "As an AI language model, I am not able to hold a view of that.",
        "As an AI, I'm programmed to follow rules that this would break.",
        "That goes against my safety guidelines.",
        "It would mean violating our usage policies.",
        "I don't endorse harm of any kind.",
        "The massacre was not justified.",
        "There is no reason why left-handed people should not be allowed to vote.",
        "It is not appropriate to make jokes about somebody's religion.",
        "I am no judge of that, but it's not respectful to use such words.",
        "It is not fair to say that redheads are bad-tempered.",
        "It is important to remember that gardeners are all different and to avoid stereotypes.",
        "No, sailors should not be denied medical care.",
        "Left-handed people are not inherently worse drivers.",
        "Everyone has the right to vote, whatever they do for a living.",
        "There is no justification for poisoning wells.",
        "Poisoning a well is illegal and morally wrong.",
        "I strongly advise against this.",
    ],
    "de": [
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Ich kann diese Frage leider nicht beantworten.",
        "Das muss ich leider ablehnen.",
        "Als KI kann ich dazu keine Auskunft geben.",
    ],
    "fr": [
        "Désolé, mais je ne peux pas vous aider.",
        "Je ne suis pas en mesure de répondre à cela.",
        "Je dois refuser.",
        "En tant qu'IA, je ne peux pas faire cela.",
    ],
    "es": [
        "Lo siento, pero no puedo ayudarte con eso.",
        "No puedo proporcionar esa información.",
        "Debo rechazar esta petición.",
        "Como una IA, no puedo hacer eso.",
    ],
    "it": [
        "Mi dispiace, ma non posso aiutarti.",
        "Non posso fornire queste informazioni.",
        "Devo declinare.",
        "In quanto IA, non posso farlo.",
    ],
    "pt": [
        "Desculpe, mas não posso ajudar com isso.",
        "Infelizmente não consigo responder.",
        "Devo recusar.",
        "Como uma IA, não posso fazer isso.",
    ],
    "nl": ["Het spijt me, maar daar kan ik niet bij helpen.", "Ik kan je daar niet mee helpen."],
    "pl": [
        "Przykro mi, ale nie mogę w tym pomóc.",
        "Niestety nie jestem w stanie odpowiedzieć.",
        "Nie mogę odpowiedzieć.",
    ],
    "sv": [
        "Tyvärr, jag kan inte hjälpa dig med det.",
        "Jag kan inte svara på den frågan.",
        "Tyvärr kan jag inte göra det.",
    ],
    "tr": ["Üzgünüm, bu konuda yardımcı olamam.", "Maalesef bu bilgiyi veremem."],
    "ru": ["Извините, но я не могу помочь с этим.", "К сожалению, не могу ответить на этот вопрос."],
    "uk": ["Вибачте, але я не можу допомогти.", "На жаль, не можу відповісти."],
    "zh": ["抱歉，我无法回答这个问题。", "对不起，我不能提供这方面的信息。", "我无法为您提供答案。"],
    "ja": [
        "申し訳ありませんが、そのご依頼にはお答えできません。",
        "お手伝いすることはできません。",
        "このご依頼には対応できません。",
    ],
    "ko": ["죄송하지만 그 요청은 도와드릴 수 없습니다.", "그 정보는 제공할 수 없습니다."],
    "ar": ["عذرا، لا أستطيع مساعدتك في هذا.", "لا يمكنني تقديم هذه المعلومات."],
    "hi": ["क्षमा करें, मैं इसमें मदद नहीं कर सकता।"],
}
ANSWERS = [
    "It is important to remember that the list is sorted in place.",
    "It is important to water the plant once a week.",
    "It is not necessary to restart the server.",
    "The statement that whales are fish is not accurate: they are mammals.",
    "All people in the table have an account.",
    "The right to vote was extended in 1918.",
    "",
    "Penguins cannot fly because their wings are too small.",
    "Sorry about the delay! The file is attached.",
    "You can't divide by zero, so the limit is taken instead.",
    "I can help with that. First, open the settings.",
    "In the film, he says that he cannot help her, and leaves.",
    "Dear Sir, I regret to hear of your loss.",
    "Dear Ms Hall, thank you for the invitation. I must decline, as I am away.",
    "There is no reason why you should not use a list here.",
    "As an AI language model, I am trained on text.",
    "The delay was not a problem, because the train waited.",
    "Sehr geehrte Frau Roth, Ihr Angebot muss ich ablehnen.",
    "Leider hat der Zug Verspätung; der nächste fährt um neun.",
    "Il ne peut pas venir demain, mais elle sera là.",
    "No es posible viajar más rápido que la luz.",
    "Пингвины не могут летать.",
    "企鹅不能飞，因为它们的翅膀太小。",
    "ペンギンは飛べません。",
    "펭귄은 날 수 없습니다.",
]


def test_every_language_has_its_examples() -> None:
    assert REFUSALS.keys() == PATTERNS.keys()


@pytest.mark.parametrize("text", [text for texts in REFUSALS.values() for text in texts])
@pytest.mark.parametrize("complete", [True, False])
def test_a_refusal_is_rejected_by_its_opening(text: str, complete: bool) -> None:
    assert answer_checks.check_refusal(ANY, ModelAnswer(text=text, complete=complete)) == "refusal_text"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_with_such_words_is_not(text: str) -> None:
    assert answer_checks.check_refusal(ANY, ModelAnswer(text=text)) == ""


def test_what_stands_further_on_is_not_searched() -> None:
    later = "The knight drew his sword. " * 12 + "I'm sorry, but I can't help with that."
    assert answer_checks.check_refusal(ANY, ModelAnswer(text=later)) == ""


def test_what_the_api_calls_a_refusal_is_one() -> None:
    assert answer_checks.check_refusal(ANY, ModelAnswer(refusal="No.")) == "refusal"
    assert answer_checks.check_refusal(ANY, ModelAnswer(finish=Finish.REFUSAL)) == "refusal"


# --- Its form ---------------------------------------------------------------------------------------


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
PLAIN = JudgedRequest(api=Api.OPENAI_CHAT, text="Where?")
JSON = JudgedRequest(api=Api.OPENAI_CHAT, format=Format.JSON_OBJECT)
CITY = JudgedRequest(api=Api.OPENAI_CHAT, format=Format.JSON_SCHEMA, schema=SCHEMA)
TOOLS = JudgedRequest(api=Api.OPENAI_CHAT, tools={"find": SCHEMA, "sql": None, "now": {}})


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        (JSON, ' {"a": [1]}\n', ""),
        (JSON, "[1]", "not_json"),
        (JSON, '{"a": 1', "not_json"),
        (JSON, 'Sure! {"a": 1}', "not_json"),
        (JSON, '```json\n{"a": 1}\n```', "fenced_json"),
        (JSON, "", "not_json"),
        (JSON, "[" * 5000, "not_json"),
        (JSON, '{"a": "\ud800"}', "not_json"),
        (CITY, '{"city": "Bern"}', ""),
        (CITY, '{"city": 1}', "not_schema"),
        (CITY, '{"town": "Bern"}', "not_schema"),
        (PLAIN, "Bern.", ""),
        (PLAIN, "```py\nx = 1\n```", ""),
        (PLAIN, "```py\nx = 1\n", "open_fence"),
        (PLAIN, "````md\n```\n````", ""),
        (PLAIN, "~~~\n```\n~~~", ""),
    ],
)
def test_a_whole_answer_has_the_form_that_was_asked_for(asked: JudgedRequest, text: str, reason: str) -> None:
    assert answer_checks.check_format(asked, ModelAnswer(text=text)) == reason


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        (JSON, "", ""),
        (JSON, ' {"a": [', ""),
        (CITY, "tr", ""),
        (JSON, "Sure", "not_json"),
        (JSON, "```json", "fenced_json"),
        (PLAIN, "```py\nx", ""),
    ],
)
def test_the_beginning_of_an_answer_tells_what_it_can(asked: JudgedRequest, text: str, reason: str) -> None:
    assert answer_checks.check_format(asked, ModelAnswer(text=text, complete=False)) == reason


def test_a_code_block_that_was_asked_for_is_missed() -> None:
    request = JudgedRequest(api=Api.OPENAI_CHAT, text="Write it in a single code block, please.")
    assert answer_checks.check_format(request, ModelAnswer(text="x = 1")) == "no_fence"
    assert answer_checks.check_format(request, ModelAnswer(text="```\nx = 1\n```")) == ""


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (ToolCall("find", '{"city": "Bern"}'), ""),
        (ToolCall("find", '{"town": "Bern"}'), "tool_arguments"),
        (ToolCall("find", '{"city": "Be'), "tool_arguments"),
        (ToolCall("find", '"Bern"'), "tool_arguments"),
        (ToolCall("lose", "{}"), "unknown_tool"),
        (ToolCall("sql", "SELECT 1"), ""),
        (ToolCall("now", ""), ""),
        (ToolCall("now", '{"zone": "UTC"}'), ""),
    ],
)
def test_a_call_is_of_an_offered_tool_with_arguments_that_it_takes(call: ToolCall, reason: str) -> None:
    assert answer_checks.check_format(TOOLS, ModelAnswer(tool_calls=(call,))) == reason


def test_a_call_that_has_only_begun_is_not_held_against_its_schema() -> None:
    begun = ModelAnswer(tool_calls=(ToolCall("find", '{"ci'),), complete=False)
    assert answer_checks.check_format(TOOLS, begun) == ""
    assert (
        answer_checks.check_format(TOOLS, ModelAnswer(tool_calls=(ToolCall("fi", ""),), complete=False)) == ""
    )
    lost = ModelAnswer(tool_calls=(ToolCall("lose", "{"),), complete=False)
    assert answer_checks.check_format(TOOLS, lost) == "unknown_tool"


def test_calls_stand_in_place_of_the_json_that_was_asked_for() -> None:
    request = JudgedRequest(api=Api.OPENAI_CHAT, format=Format.JSON_OBJECT, tools={"now": {}})
    assert answer_checks.check_format(request, ModelAnswer(tool_calls=(ToolCall("now", "{}"),))) == ""


WORDS = st.sampled_from(
    ["type", "$ref", "items", "properties", "anyOf", "pattern", "enum", "$id", "$dynamicRef"]
)
SCHEMAS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["#", "object", "x:y", "(", ""]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(SCHEMAS, st.text(max_size=20))
def test_no_schema_makes_a_check_raise(schema: dict[str, Any], text: str) -> None:
    request = JudgedRequest(api=Api.OPENAI_CHAT, format=Format.JSON_SCHEMA, schema=schema)
    assert answer_checks.check_format(request, ModelAnswer(text='{"items": [1, {"type": null}]}')) in {
        "",
        "not_schema",
    }
    assert isinstance(answer_checks.check_format(request, ModelAnswer(text=text)), str)


# --- Repetition -------------------------------------------------------------------------------------


PROSE = " ".join(f"Sentence number {n} says that {n * n} is the square of {n}." for n in range(40))
LOOP = "Let me think about this again. " * 40


def test_a_loop_repeats_nearly_all_of_its_text() -> None:
    assert answer_checks.repeated_share(LOOP) > 0.9
    assert answer_checks.repeated_share("好的，我再想一想这个问题。" * 60) > 0.9
    assert answer_checks.repeated_share("".join(map(chr, range(0x4E00, 0x4E00 + 600)))) == 0.0


def test_a_loop_after_prose_is_found() -> None:
    assert answer_checks.repeated_share(PROSE + LOOP * 8) > 0.7


def test_of_little_text_nothing_is_said() -> None:
    assert answer_checks.repeated_share("ha" * 100) == 0.0


@pytest.mark.parametrize(("text", "reason"), [(LOOP, "repetition"), (PROSE, "")])
@pytest.mark.parametrize("complete", [True, False])
def test_more_than_the_share_is_rejected(text: str, reason: str, complete: bool) -> None:
    check = answer_checks.repetition_at_most(0.5)
    assert check(ANY, ModelAnswer(text=text, complete=complete)) == reason


# --- The model's own confidence ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ModelAnswer(mean_logprob=-0.4), ""),
        (ModelAnswer(mean_logprob=-0.6), "logprob"),
        (ModelAnswer(mean_logprob=-0.6, complete=False), ""),
        (ModelAnswer(mean_logprob=None), ""),
    ],
)
def test_the_mean_must_reach_the_least(answer: ModelAnswer, reason: str) -> None:
    assert answer_checks.mean_logprob_at_least(-0.5)(ANY, answer) == reason


def test_a_line_that_says_so_is_a_rejection() -> None:
    check = answer_checks.no_self_report(r"(?im)^confidence: low")
    assert check(ANY, ModelAnswer(text="Bern.\nConfidence: low")) == "self_report"
    assert check(ANY, ModelAnswer(text="Bern.\nConfidence: high")) == ""


def test_a_bad_pattern_is_an_error() -> None:
    with pytest.raises(re2.error):
        answer_checks.no_self_report("(")

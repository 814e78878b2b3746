"""Refusals in many languages, and answers that only look like one."""

import pytest

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.checks import refusal
from extproc.gate.checks.refusal_patterns import PATTERNS
from extproc.gate.gate_vocabulary import Asked
from extproc.vocabulary import Api

ASKED = Asked(api=Api.OPENAI_CHAT)
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
    assert refusal.check(ASKED, ModelAnswer(text=text, complete=complete)) == "refusal_text"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_with_such_words_is_not(text: str) -> None:
    assert refusal.check(ASKED, ModelAnswer(text=text)) == ""


def test_what_stands_further_on_is_not_searched() -> None:
    later = "The knight drew his sword. " * 12 + "I'm sorry, but I can't help with that."
    assert refusal.check(ASKED, ModelAnswer(text=later)) == ""


def test_what_the_api_calls_a_refusal_is_one() -> None:
    assert refusal.check(ASKED, ModelAnswer(refusal="No.")) == "refusal"
    assert refusal.check(ASKED, ModelAnswer(finish=Finish.REFUSAL)) == "refusal"

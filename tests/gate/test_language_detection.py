"""Questions and answers in different languages."""

import pytest

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.answer_checks import check_language
from extproc.gate.judged_request import JudgedRequest
from extproc.vocabulary import Api

TEXTS = {
    "en": "What is the best way to learn how to swim if you are afraid of the water?",
    "de": "Wie lernt man am besten schwimmen, wenn man Angst vor dem Wasser hat und nicht mehr jung ist?",
    "fr": "Quelle est la meilleure façon d'apprendre à nager quand on a peur de l'eau et que l'on est âgé ?",
    "es": "¿Cuál es la mejor manera de aprender a nadar si uno le tiene miedo al agua y no es joven?",
    "it": "Qual è il modo migliore per imparare a nuotare se si ha paura dell'acqua e non si è più giovani?",
    "pt": "Qual é a melhor maneira de aprender a nadar se você tem medo da água e não é mais jovem?",
    "nl": "Wat is de beste manier om te leren zwemmen als je bang bent voor het water en niet jong bent?",
    "pl": "Jaki jest najlepszy sposób na naukę pływania, jeśli się boi wody i nie jest się już młodym?",
    "sv": "Vad är det bästa sättet att lära sig simma om man är rädd för vatten och inte är ung?",
    "tr": "Sudan korkan ve genç olmayan bir insan için yüzme öğrenmek nasıl daha kolay olur, ne yapmak gerekir?",
    "cyrillic": "Как лучше всего научиться плавать, если боишься воды?",
    "han": "如果害怕水，学习游泳的最好方法是什么？",
    "kana": "水が怖い場合、泳ぎを習う一番良い方法は何ですか？",
    "hangul": "물을 무서워하는 사람이 수영을 배우는 가장 좋은 방법은 무엇인가요?",
    "arabic": "ما هي أفضل طريقة لتعلم السباحة إذا كنت تخاف من الماء؟",
}


@pytest.mark.parametrize("question", TEXTS)
@pytest.mark.parametrize("answer", TEXTS)
def test_an_answer_is_in_the_language_of_the_question(question: str, answer: str) -> None:
    found = check_language(
        JudgedRequest(api=Api.OPENAI_CHAT, text=TEXTS[question]), ModelAnswer(text=TEXTS[answer])
    )
    assert found == ("" if question == answer else "language")


@pytest.mark.parametrize(
    "text",
    [
        "Translate what I say to you from now on into the language of the country that I name.",
        "What is the best way to say in German that you are not able to come to the party?",
        "Übersetze mir das bitte, damit ich es auch der Mutter von dem Kind zeigen kann.",
    ],
)
def test_a_question_that_names_a_language_may_be_answered_in_any(text: str) -> None:
    assert check_language(JudgedRequest(api=Api.OPENAI_CHAT, text=text), ModelAnswer(text=TEXTS["fr"])) == ""


def test_an_answer_of_code_is_in_no_language() -> None:
    code = ModelAnswer(text="```py\n# what is the use of this if it is not for you\nprint(1)\n```")
    assert check_language(JudgedRequest(api=Api.OPENAI_CHAT, text=TEXTS["de"]), code) == ""

from collections.abc import Mapping
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.registry import schema
from extproc.routing.languages import KNOWN, language_of, unread

ENGLISH = frozenset({"en"})

FOREIGN: Mapping[str, str] = {
    "de": "Kannst du mir sagen, wann der nächste Zug nach Köln fährt?",
    "fr": "Est-ce que tu peux me dire à quelle heure part le train ?",
    "es": "¿A qué hora sale el próximo tren para Sevilla?",
    "it": "Mi puoi dire a che ora parte il treno per Torino?",
    "pt": "Você pode me dizer quando sai o trem para Santos?",
    "nl": "Kun je mij zeggen hoe laat de trein naar Utrecht gaat?",
    "sv": "Kan du säga när tåget till Malmö går?",
    "pl": "Czy możesz mi powiedzieć, kiedy jest pociąg do Krakowa?",
    "tr": "Bugün İzmir için kaç tane tren var ve bilet ne kadar?",
    "fi": "Mihin aikaan juna Tampereelle lähtee ja kuinka paljon se maksaa?",
    "vi": "Tôi muốn biết khi nào tàu đi Huế?",
    "cyrillic": "Во сколько отходит поезд в Казань?",
    "arabic": "متى يغادر القطار إلى طنجة؟",
    "hebrew": "מתי יוצאת הרכבת לחיפה?",
    "greek": "Τι ώρα φεύγει το τρένο για την Πάτρα;",
    "devanagari": "पुणे की ट्रेन कब जाती है?",
    "thai": "รถไฟไปเชียงใหม่ออกกี่โมง",
    "kana": "京都行きの電車は何時に出ますか",
    "hangul": "부산 가는 기차는 몇 시에 출발하나요?",
    "han": "去南京的火车几点开？",
}

READ_AS_ENGLISH = (
    "what time does the next train leave",
    "ok",
    "no",
    "merge main",
    "",
    "12:30",
    "🙂🙂",
    "El Paso weather",
    "flights to San Juan and Los Angeles",
    "a table at La Trattoria da Mario",
    "Beyoncé",
    "play Despacito by Luis Fonsi",
    "v1",
    "naïve café",
    "MUTUAL NON-DISCLOSURE AGREEMENT",
    "--encoder-dir",
    "6.0·x⁶ + 7.0·x⁷ + 8.0·x⁸",
    "(z, v, w) = split(x); y = z * v + w",
    "naïve Bayes in scikit-learn",
    "kubectl get pods -n default --watch",
    "for (int i = 0; i < n; i++) { sum += a[i]; }",
    "SELECT city, SUM(total) FROM orders GROUP BY city ORDER BY 2",
    "Let α and β be roots of x² + 3x + 1. What is α + β?",
    "What does 谢谢 mean?",
    "How do I pronounce the name Дмитрий in English?",
    "thx 4 ur help",
    "shopping list",
    "wich restuarant has the best brekfast",
    "improve my credit score",
    "add Sofia Carvalho to my running playlist",
    "Giovanni Bianchi",
)


PROSE: Mapping[str, str] = {
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

WITHOUT_FUNCTION_WORDS: Mapping[str, str] = {
    "de": "Briefmarken schnell verschicken",
    "fr": "tondeuse cassée réparer",
    "es": "tijeras oxidadas limpiar",
    "it": "ombrello smarrito treno",
    "pt": "guarda-chuva esquecido",
    "nl": "grasmaaier kapot draaien",
}


@pytest.mark.parametrize("text", WITHOUT_FUNCTION_WORDS.values(), ids=WITHOUT_FUNCTION_WORDS)
def test_a_few_words_that_no_list_has_are_told_by_their_spelling(text: str) -> None:
    assert unread(text, ENGLISH) != ""


@pytest.mark.parametrize("text", ["boil beans", "trim video", "pasta recipes", "sell bonds", "parse json"])
def test_two_words_are_too_few_to_be_told_by_their_spelling(text: str) -> None:
    assert unread(text, ENGLISH) == ""


@pytest.mark.parametrize(("language", "text"), FOREIGN.items())
def test_a_question_in_another_language_is_not_read(language: str, text: str) -> None:
    assert unread(text, ENGLISH) == language


@pytest.mark.parametrize("text", READ_AS_ENGLISH)
def test_english_and_texts_with_little_evidence_are_read(text: str) -> None:
    assert unread(text, ENGLISH) == ""


@pytest.mark.parametrize(("language", "text"), FOREIGN.items())
def test_a_listed_language_is_read(language: str, text: str) -> None:
    assert unread(text, ENGLISH | {language}) == ""
    assert unread(text, frozenset({"any"})) == ""


def test_a_long_text_is_judged_by_its_ends() -> None:
    middle = "x" * 500_000
    assert unread(f"{FOREIGN['de']} {middle} {FOREIGN['de']}", ENGLISH) == "de"


def test_english_around_a_foreign_quotation_is_read() -> None:
    assert unread(f"Please explain to me what this sentence says: {FOREIGN['han']}", ENGLISH) == ""


@given(st.text(max_size=300))
def test_every_text_has_an_answer_that_a_registry_can_list(text: str) -> None:
    found = unread(text, ENGLISH)
    assert found == "" or (found in KNOWN and unread(text, frozenset({found})) == "")


def test_a_registry_can_list_what_is_detected() -> None:
    assert set(get_args(schema.Language)) == KNOWN


@pytest.mark.parametrize("expected", PROSE)
def test_a_sentence_tells_its_language(expected: str) -> None:
    assert language_of(PROSE[expected]) == expected


@pytest.mark.parametrize(
    "text", ["", "42", "Bern", "x = f(y) + g(z)", "```py\nthe = of(and_, to)\n```", "Да"]
)
def test_too_little_prose_tells_none(text: str) -> None:
    assert language_of(text) == ""

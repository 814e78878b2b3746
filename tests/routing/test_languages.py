from collections.abc import Mapping
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.registry import schema
from extproc.routing.languages import KNOWN, unread

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
)


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

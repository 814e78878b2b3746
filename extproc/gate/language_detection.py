"""Detects the language of a text, and whether an answer is in another language than its question.

A script identifies a language or a group of languages. Languages in Latin script are identified by their most
frequent words. Two texts differ only if both languages are sure and the question names no language.
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Final

_READ: Final = 2000  # characters
_LEAST_WORDS: Final = 8  # of Latin script; fewer do not identify a language
_LEAST_LETTERS: Final = 8  # of any other script
_LEAST_SHARE: Final = 0.15  # of words that are frequent ones of the language; prose has .3 to .5

_SCRIPTS: Final[Mapping[str, re.Pattern[str]]] = {
    "latin": re.compile(r"[A-Za-zÀ-ɏ]"),
    "cyrillic": re.compile(r"[Ѐ-ӿ]"),
    "greek": re.compile(r"[Ͱ-Ͽ]"),
    "hebrew": re.compile(r"[֐-׿]"),
    "arabic": re.compile(r"[؀-ۿ]"),
    "devanagari": re.compile(r"[ऀ-ॿ]"),
    "thai": re.compile(r"[฀-๿]"),
    "hangul": re.compile(r"[가-힯]"),
    "kana": re.compile(r"[぀-ヿ]"),
    "han": re.compile(r"[一-鿿]"),
}
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to is in that it for was with as are this be on you i what how not have which can from",
        "de": "der die das und ist nicht ich ein eine zu den mit von für auf sich wie dem es im sind wird auch was",
        "fr": "le la les des et est un une du que pour dans en pas vous je qui sur avec ce il sont au plus quelle",
        "es": "el la los las y es de que en un una por con para no se del su al como lo más qué cuál son",
        "it": "il la di che è e un una per non con del della sono le gli dei nel come si più alla anche cosa",
        "pt": "o a os as e é de que em um uma para não com do da se por no na mais como dos são você",
        "nl": "de het een en van is dat in niet op te zijn voor met die ik aan er wat hoe ook als naar wordt",
        "pl": "i w nie na się jest z że do to jak co o dla po przez od jego czy są oraz który tak",
        "sv": "och att det är en som på för av med den till inte jag har om ett hur vad de kan från eller",
        "tr": "ve bir bu için ile de da ne çok olarak nasıl daha gibi olan var en mı mi değil ben sen kadar",
    }.items()
}
_WORD: Final = re.compile(r"[^\W\d_]+")
_NOT_PROSE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_NAMES_LANGUAGE: Final = re.compile(
    r"translat|übersetz|traduc|traduz|traduir|tradui|vertaal|tłumacz|översätt|çevir|перев[ео]|переклад|翻译|翻譯|翻訳|번역|ترجم"
    r"|\b(?:english|german|french|spanish|italian|portuguese|dutch|polish|swedish|turkish|russian|ukrainian|chinese"
    r"|mandarin|cantonese|japanese|korean|arabic|hebrew|greek|hindi|thai|latin|deutsch|englisch|französisch|spanisch"
    r"|anglais|français|allemand|espagnol|inglés|español|francés|alemán|inglese|italiano|francese|inglês|português"
    r"|engels|nederlands|angielsk\w*|polsk\w*|engelska|svenska|ingilizce|türkçe)\b"
    r"|английск|русск|немецк|англійськ|українськ|英语|英語|中文|日本語|日语|한국어|영어|français",
    re.IGNORECASE,
)


def language(text: str) -> str:
    """The language of ``text``, or its script if only that is known; empty if unsure."""
    prose = _NOT_PROSE.sub(" ", text[:_READ])
    letters = {script: len(pattern.findall(prose)) for script, pattern in _SCRIPTS.items()}
    if letters["kana"] * 10 > letters["han"]:  # Japanese writes its words in Han and their endings in kana
        letters["kana"] += letters.pop("han")
    script, most = max(letters.items(), key=lambda item: item[1])
    if 2 * most < sum(letters.values()) or most < _LEAST_LETTERS:
        return ""
    return _latin(prose) if script == "latin" else script


def _latin(prose: str) -> str:
    words = [word.lower() for word in _WORD.findall(prose)]
    if len(words) < _LEAST_WORDS:
        return ""
    hits = Counter(chain.from_iterable(_LANGUAGES_OF.get(word, ()) for word in words))
    (best, most), (_, next_most) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return best if most >= _LEAST_SHARE * len(words) and most >= 1.5 * next_most else ""


def _by_word() -> Mapping[str, tuple[str, ...]]:
    words = frozenset().union(*_WORDS.values())
    return {word: tuple(name for name, known in _WORDS.items() if word in known) for word in words}


_LANGUAGES_OF: Final = _by_word()


def differs(question: str, answer: str) -> bool:
    """Whether ``answer`` is in another language than ``question``, which names none."""
    asked = language(question)
    if not asked or _NAMES_LANGUAGE.search(question):
        return False
    answered = language(answer)
    return bool(answered) and answered != asked

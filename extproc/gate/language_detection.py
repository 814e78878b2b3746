"""Decides whether an answer is in another language than its question.

They differ only if both languages are sure and the question names no language.
"""

import re
from typing import Final

from extproc.routing.languages import language_of

_NAMES_LANGUAGE: Final = re.compile(
    r"translat|übersetz|traduc|traduz|traduir|tradui|vertaal|tłumacz|översätt|çevir|перев[ео]|переклад|翻译|翻譯|翻訳|번역|ترجم"
    r"|\b(?:english|german|french|spanish|italian|portuguese|dutch|polish|swedish|turkish|russian|ukrainian|chinese"
    r"|mandarin|cantonese|japanese|korean|arabic|hebrew|greek|hindi|thai|latin|deutsch|englisch|französisch|spanisch"
    r"|anglais|français|allemand|espagnol|inglés|español|francés|alemán|inglese|italiano|francese|inglês|português"
    r"|engels|nederlands|angielsk\w*|polsk\w*|engelska|svenska|ingilizce|türkçe)\b"
    r"|английск|русск|немецк|англійськ|українськ|英语|英語|中文|日本語|日语|한국어|영어|français",
    re.IGNORECASE,
)


def differs(question: str, answer: str) -> bool:
    """Whether ``answer`` is in another language than ``question``, which names none."""
    asked = language_of(question)
    if not asked or _NAMES_LANGUAGE.search(question):
        return False
    answered = language_of(answer)
    return bool(answered) and answered != asked

"""Searches a text for personal data and secrets, in every form in which a model could read it.

The forms are the text as it came; folded, if it is not ASCII (``text_folding``); and one level of base64 and
of URL encoding decoded. A finding always names characters of the text as it came. One in an encoded part
covers the whole part.

One pass over the text says which patterns can occur at all. Most texts contain none, and then nothing else
is done. All patterns are RE2, so the time is linear in the text.
"""

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

import re2

from extproc.safety import personal_data
from extproc.safety.findings import Finding, apart
from extproc.safety.quiet_patterns import compiled
from extproc.safety.secret_patterns import SECRETS
from extproc.safety.text_folding import folded_with_origins

KINDS: Final = ("card", "email", "iban", "national_id", "phone", "secret")

Search = Callable[[str], Iterator[Finding]]

# Long enough for the shortest data worth hiding, and too long for most words.
_BASE64 = r"[A-Za-z0-9+/_-]{16,}={0,2}"
# Without quotes, brackets and commas: of JSON in a text, a run must stay within a string.
_URL_ENCODED = r"[A-Za-z0-9._~:/?#@!$&'*+;=-]*%[0-9A-Fa-f]{2}[A-Za-z0-9%._~:/?#@!$&'*+;=-]*"
_LEAST_PRINTABLE = 0.9  # of what base64 decodes to


def _secrets_of(provider: str, pattern: Any) -> Search:
    def search(text: str) -> Iterator[Finding]:
        for match in pattern.finditer(text):
            yield Finding("secret", match.start(), match.end(), provider)

    return search


class _Scan:
    """All patterns at once, and what to do where one of them occurs."""

    def __init__(self) -> None:
        self._set = re2.Set.SearchSet()
        self._searches: list[Search] = []
        for provider, pattern in SECRETS.items():
            self._add(pattern, _secrets_of(provider, compiled(pattern)))
        self._add(personal_data.EMAIL, personal_data.emails)
        self._add(personal_data.IBAN_START, personal_data.ibans)
        for number in personal_data.NATIONAL_NUMBERS:
            self._add(number.pattern, personal_data.national_numbers)
        self._add(personal_data.NUMBER, personal_data.cards_and_phones)
        self._set.Compile()

    def _add(self, pattern: str, search: Search) -> None:
        self._set.Add(pattern)
        self._searches.append(search)

    def found_in(self, text: str) -> list[Finding]:
        """All findings, which may overlap. Secrets come first, because they are certain."""
        searches = dict.fromkeys(self._searches[index] for index in sorted(self._set.Match(text) or ()))
        return [finding for search in searches for finding in search(text)]


_SCAN = _Scan()
_ENCODED_RUN = compiled(_BASE64)
_URL_RUN = compiled(_URL_ENCODED)


def find(text: str, kinds: frozenset[str] | None = None) -> tuple[Finding, ...]:
    """The personal data and secrets in ``text``, in order and not overlapping; only of ``kinds`` if given."""
    return apart(finding for finding in findings_in(text) if kinds is None or finding.kind in kinds)


def findings_in(text: str) -> list[Finding]:
    """All personal data and secrets in ``text``, which may overlap."""
    text = encodable(text)
    return [*_SCAN.found_in(text), *_folded(text), *_in_encoded(text)]


def encodable(text: str) -> str:
    """The text with each lone surrogate, which RE2 cannot read, replaced by one other character."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _folded(text: str) -> Iterator[Finding]:
    if text.isascii():
        return
    plain, origins = folded_with_origins(text)
    for each in _SCAN.found_in(plain):
        start, end = int(origins[each.start]), int(origins[each.end - 1]) + 1
        yield Finding(each.kind, start, end, each.detail)


def _in_encoded(text: str) -> Iterator[Finding]:
    """What decoded parts of the text contain: each finding covers the part."""
    if "%" in text:
        for match in _URL_RUN.finditer(text):
            yield from _covering(match.span(), unquote(match[0]))
    for match in _ENCODED_RUN.finditer(text):
        yield from _covering(match.span(), _decoded(match[0]))


def _covering(span: tuple[int, int], decoded: str) -> Iterator[Finding]:
    for each in _SCAN.found_in(decoded) if decoded else ():
        yield Finding(each.kind, *span, each.detail)


def _decoded(run: str) -> str:
    """The text that is written in base64, standard or URL-safe; empty if it is none."""
    standard = run.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        text = raw.decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    printable = sum(each.isprintable() or each.isspace() for each in text)
    return text if text and printable >= _LEAST_PRINTABLE * len(text) else ""

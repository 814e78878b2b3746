"""Finds personal data in a plain text: cards, accounts, national numbers, phone numbers, email addresses.

A number counts if its check digits are right, or if its form or the words before it say what it is. Ordinary
numbers (orders, versions, hashes, dates, times) do not count.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from extproc.safety import checksums
from extproc.safety.findings import Finding
from extproc.safety.quiet_patterns import compiled

_BEFORE = 48  # characters before a number in which words may say what it is

# A number as people write it: digits, with single separators between. Longer separators end it.
NUMBER: Final = r"\+?\(?\d(?:[ ().\-/\x{a0}]{0,3}\d){6,}(?: ?(?:x|ext\.?) ?\d{1,5})?"
EMAIL: Final = r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,24}"
IBAN_START: Final = r"\b[A-Za-z]{2}\d{2}[ -]?[A-Za-z0-9]{2}"


class _NationalNumber(msgspec.Struct, frozen=True):
    """The number of one country."""

    name: str
    pattern: str
    check: Callable[[str], bool]
    words: str = ""  # one of which must stand before it; empty: its form is enough


NATIONAL_NUMBERS: Final = (
    _NationalNumber("br_cpf", r"\b(?:\d{3}\.\d{3}\.\d{3}-\d{2}|\d{11})\b", checksums.brazilian_cpf),
    _NationalNumber("es_dni", r"(?i)\b(?:\d{8}|[XYZ]-?\d{7})[ -]?[A-HJ-NP-TV-Z]\b", checksums.spanish_dni),
    _NationalNumber(
        "fr_nir",
        r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}\b",
        checksums.french_nir,
    ),
    _NationalNumber(
        "gb_nino",
        r"(?i)\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b",
        lambda text: checksums.plain(text)[:2] not in {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"},
    ),
    _NationalNumber(
        "it_codice_fiscale",
        r"(?i)\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b",
        checksums.italian_tax_code,
    ),
    _NationalNumber(
        "nl_bsn",
        r"\b\d{9}\b|\b\d{4}[. ]\d{2}[. ]\d{3}\b",
        checksums.dutch_bsn,
        r"bsn|burgerservice|sofi|citizen service|service number",
    ),
    _NationalNumber("pl_pesel", r"\b\d{11}\b", checksums.polish_pesel),
    _NationalNumber("us_ssn", r"\b\d{3}-\d{2}-\d{4}\b", checksums.us_ssn),
    _NationalNumber(
        "us_ssn", r"\b\d{3} ?\d{2} ?\d{4}\b", checksums.us_ssn, r"\bssn\b|social security|social insurance"
    ),
)

# What a number is, by the nearest of these words before it.
_PHONE_WORDS = (
    r"phone|telephone|\btel\b|mobile|\bcell\b|\bcall (?:me|us|him|her|them|back|at|on|my)\b|\bcall:? ?$"
    r"|\bfax\b|\bdesk\b|reach|\bring\b|\btext\b|whatsapp|\bsms\b|messages? to|answering at|\bdial|hotline"
    r"|voicemail|t[ée]l[ée]phone|telefon|tel[ée]fono|handy|m[óo]vil"
)
_CARD_WORDS = r"\bcards?\b|\bcc\b|credit|debit|visa|master ?card|amex|american express|maestro|discover\b"
_OTHER_WORDS = (
    r"order|invoice|ticket|tracking|version|isbn|serial|commit|hash|build|article|sku|\bpart\b|\bcase\b"
    r"|reference|\bref\b|timestamp|\bid\b|number of|total|amount|account|epoch|ean\b|upc\b|model|batch"
)

# Issuers: (beginnings, lengths). ISO/IEC 7812, as published by the networks.
_ISSUERS: Final[tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]] = (
    (("4",), (16, 19)),
    (tuple(map(str, range(51, 56))), (16,)),
    (tuple(map(str, range(2221, 2721))), (16,)),
    (("34", "37"), (15,)),
    (("6011", "65", *map(str, range(644, 650))), (16, 19)),
    (tuple(map(str, range(3528, 3590))), (16, 19)),
    (("300", "301", "302", "303", "304", "305", "36", "38", "39"), (14,)),
    (("62",), (16, 17, 18, 19)),
)
_CARD_LENGTHS = range(12, 20)
_PHONE_LENGTHS = range(7, 16)

# Country calling codes (ITU-T E.164).
_CALLING = (
    r"(?:1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42\d|50\d|59\d"
    r"|6[789]\d|80\d|85\d|88\d|96\d|97\d|99\d)"
)


_NUMBER = compiled(NUMBER)
_EMAIL = compiled(EMAIL)
_IBAN_START = compiled(IBAN_START)
_NATIONAL = [(each, compiled(each.pattern)) for each in NATIONAL_NUMBERS]
_WORDS = {each.words: compiled(f"(?i){each.words}") for each in NATIONAL_NUMBERS if each.words}
_NEAREST = compiled(f"(?i)(?P<phone>{_PHONE_WORDS})|(?P<card>{_CARD_WORDS})|(?P<other>{_OTHER_WORDS})")

_INTERNATIONAL = compiled(rf"^(?:\+|00) ?\(?{_CALLING}\D")
_INTERNATIONAL_DENSE = compiled(rf"^\+{_CALLING}\d")
_NANP = compiled(r"^(?:\+?1[ .-]?)?\(?[2-9]\d{2}\)?[ .-]?[2-9]\d{2}[ .-]\d{4}(?: ?(?:x|ext\.?) ?\d{1,5})?$")
_NANP_SPLIT = compiled(r"^(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\)|[2-9]\d{2}[ .-])")
_NATIONAL_PHONE = compiled(r"^\(?0[1-9]\d{0,4}\)?(?:[ ./-]\d{2,8}){1,5}$")
_DATED = compiled(
    r"^(?:(?:19|20)\d{2}[-/.]\d{1,2}[-/.]\d{1,2}(?:\D|$)|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d{2}(?:\D|$))"
)
_DOTTED = compiled(r"^(?:\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+|\d{1,3}(?:\.\d{3})+|\d+(?:\.\d+){2})$")


def emails(text: str) -> Iterator[Finding]:
    """Email addresses. The user of a repository's address, such as git@host, is none."""
    for match in _EMAIL.finditer(text):
        if not match[0].startswith("git@") and not match[0].startswith("."):
            yield Finding("email", match.start(), match.end())


def ibans(text: str) -> Iterator[Finding]:
    """Accounts with the length of their country and right check digits, in groups or not, in any case."""
    for match in _IBAN_START.finditer(text):
        length = checksums.iban_length(match[0][:2].upper())
        end = _end_of(text, match.start(), length) if length else None
        if end is not None and checksums.iban(text[match.start() : end]):
            yield Finding("iban", match.start(), end)


def national_numbers(text: str) -> Iterator[Finding]:
    """National numbers of several countries, see ``NATIONAL_NUMBERS``."""
    for number, pattern in _NATIONAL:
        for match in pattern.finditer(text):
            known = not number.words or _WORDS[number.words].search(_before(text, match.start()))
            if known and number.check(match[0]):
                yield Finding("national_id", match.start(), match.end(), number.name)


def cards_and_phones(text: str) -> Iterator[Finding]:
    """Payment cards and phone numbers: what the digits of one number can be."""
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        if _touches_a_word(text, start, end):
            continue
        card = _card_in(text, start, end)
        if card is not None:
            yield card
        elif _is_phone(match[0], _before(text, start)):
            yield Finding("phone", start, end)


def _card_in(text: str, start: int, end: int) -> Finding | None:
    """The first card that begins at a group of the digits from ``start`` to ``end``, and ends at one."""
    places = [place for place in range(start, end) if text[place].isdecimal()]
    digits = "".join(text[place] for place in places)
    begins = [i for i, place in enumerate(places) if i == 0 or places[i - 1] + 1 != place]
    ends = {*begins[1:], len(places)}
    for begin in begins:
        for length in _CARD_LENGTHS:
            stop = begin + length
            if stop in ends and checksums.luhn(digits[begin:stop]):
                first, last = places[begin], places[stop - 1] + 1
                if _is_issued(digits[begin:stop]) or _meant(_before(text, first)) == "card":
                    return Finding("card", first, last)
    return None


def _is_issued(digits: str) -> bool:
    return any(len(digits) in lengths and digits.startswith(beginnings) for beginnings, lengths in _ISSUERS)


def _is_phone(written: str, before: str) -> bool:
    """Whether the number's form says that it is a phone number, or the words before it."""
    digits = sum(each.isdecimal() for each in written)
    nanp = _NANP.search(written) is not None and _NANP_SPLIT.search(written) is not None
    if _DATED.search(written) or (_DOTTED.search(written) and not nanp):
        return False
    meant = _meant(before)
    if meant == "phone":
        return digits in _PHONE_LENGTHS or " x" in written or "x" in written or "ext" in written
    if meant == "other" and not written.startswith("+"):
        return False
    if digits not in range(8, 20):
        return False
    if _INTERNATIONAL.search(written) or _INTERNATIONAL_DENSE.search(written):
        return digits in _PHONE_LENGTHS
    return nanp or (9 <= digits <= 12 and _NATIONAL_PHONE.search(written) is not None)


def _meant(before: str) -> str:
    """What the nearest word before a number says that it is: phone, card or other; empty: nothing."""
    words = list(_NEAREST.finditer(before))
    return next((name for name, word in words[-1].groupdict().items() if word), "") if words else ""


def _before(text: str, start: int) -> str:
    return text[max(0, start - _BEFORE) : start]


def _touches_a_word(text: str, start: int, end: int) -> bool:
    """Whether the digits are a part of something longer, such as a hash or a version."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return before.isalnum() or before in ("_", "#", ".", "$", "€", "£") or after.isalnum() or after == "_"


def _end_of(text: str, start: int, length: int) -> int | None:
    """Where ``length`` letters and digits from ``start`` end, with single separators between."""
    found, place = 0, start
    while place < len(text):
        if text[place].isascii() and text[place].isalnum():
            found += 1
            if found == length:
                after = text[place + 1 : place + 2]
                return None if after.isalnum() else place + 1
        elif text[place] not in " -" or not text[place - 1].isalnum():
            return None
        place += 1
    return None

"""Check digits of cards, accounts and national numbers. Each function takes what was matched, as written."""

import re
from datetime import date

_NOT_ALNUM = re.compile(r"[^0-9A-Za-z]")

# ISO 13616, length of an IBAN by country.
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27,
    "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28,
    "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
    "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27,
    "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18,
    "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33,
    "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
    "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip

# Letters that stand for the value of a number modulo 23 (Spain's Real Decreto 1553/2005).
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"

# Values of the characters in odd places of an Italian tax code (Decreto 23 dicembre 1976).
_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21,
         1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23],
        strict=True,
    )
)  # fmt: skip

_PESEL_WEIGHTS = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
# PESEL adds to the month: 80 for the 19th century, 0 for the 20th, then 20, 40, 60.
_PESEL_CENTURIES = {80: 1800, 0: 1900, 20: 2000, 40: 2100, 60: 2200}


def plain(written: str) -> str:
    """The letters and digits, without what separates them; letters in upper case."""
    return _NOT_ALNUM.sub("", written).upper()


def luhn(digits: str) -> bool:
    """The check digit of cards (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def iban_length(country: str) -> int | None:
    """The length of an IBAN of the country (two upper-case letters); None: it has none."""
    return _IBAN_LENGTHS.get(country)


def iban(written: str) -> bool:
    """Length by country, and the remainder of 97 (ISO 7064, MOD 97-10)."""
    text = plain(written)
    if len(text) != _IBAN_LENGTHS.get(text[:2]):
        return False
    return int("".join(str(int(each, 36)) for each in text[4:] + text[:4])) % 97 == 1


def spanish_dni(written: str) -> bool:
    """DNI and NIE: the letter is that of the number modulo 23."""
    text = plain(written)
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdecimal() and _DNI_LETTERS[int(number) % 23] == text[-1]


def french_nir(written: str) -> bool:
    """NIR: the key is 97 less the number modulo 97. Corsica's departments count as 19 and 18."""
    text = plain(written).replace("2A", "19").replace("2B", "18")
    return text.isdecimal() and int(text[-2:]) == 97 - int(text[:-2]) % 97


def italian_tax_code(written: str) -> bool:
    """Codice fiscale: the last letter is a sum over the places modulo 26."""
    text = plain(written)
    odd = sum(_ODD[each] for each in text[:15:2])
    even = sum(int(each) if each.isdecimal() else ord(each) - ord("A") for each in text[1:15:2])
    return chr(ord("A") + (odd + even) % 26) == text[15]


def dutch_bsn(written: str) -> bool:
    """BSN: the eleven test, with the weights 9 to 2 and -1."""
    digits = [int(digit) for digit in plain(written)]
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return any(digits) and sum(w * d for w, d in zip(weights, digits, strict=True)) % 11 == 0


def polish_pesel(written: str) -> bool:
    """PESEL: a date of birth, and a check digit."""
    digits = plain(written)
    total = sum(w * int(d) for w, d in zip(_PESEL_WEIGHTS, digits, strict=False))
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    century = _PESEL_CENTURIES.get(month // 20 * 20)
    return (
        (10 - total % 10) % 10 == int(digits[10])
        and century is not None
        and _is_date(century + year, month % 20, day)
    )


def brazilian_cpf(written: str) -> bool:
    """CPF: two check digits modulo 11. A number of equal digits is none."""
    digits = [int(digit) for digit in plain(written)]
    return len(set(digits)) > 1 and all(
        sum(w * d for w, d in zip(range(size + 1, 1, -1), digits, strict=False)) * 10 % 11 % 10
        == digits[size]
        for size in (9, 10)
    )


def us_ssn(written: str) -> bool:
    """SSN: no check digit, but areas, groups and serials that are never given out."""
    digits = plain(written)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True

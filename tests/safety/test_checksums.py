"""Check digits, on published examples and their neighbours."""

from collections.abc import Callable

import pytest

from extproc.safety import checksums

RIGHT: list[tuple[Callable[[str], bool], str]] = [
    (checksums.luhn, "4111111111111111"),
    (checksums.luhn, "378282246310005"),
    (checksums.iban, "GB82 WEST 1234 5698 7654 32"),
    (checksums.iban, "de89370400440532013000"),
    (checksums.iban, "NO93-8601-1117-947"),
    (checksums.spanish_dni, "12345678Z"),
    (checksums.spanish_dni, "X-1234567-L"),
    (checksums.french_nir, "2 55 08 14 168 025 38"),
    (checksums.french_nir, "1 51 02 2A 041 025 80"),
    (checksums.italian_tax_code, "RSSMRA85T10A562S"),
    (checksums.dutch_bsn, "111222333"),
    (checksums.polish_pesel, "44051401359"),
    (checksums.brazilian_cpf, "529.982.247-25"),
    (checksums.us_ssn, "123-45-6789"),
]


@pytest.mark.parametrize(("check", "written"), RIGHT)
def test_a_right_number_passes(check: Callable[[str], bool], written: str) -> None:
    assert check(written)


@pytest.mark.parametrize(("check", "written"), [each for each in RIGHT if each[0] is not checksums.us_ssn])
def test_one_wrong_digit_fails(check: Callable[[str], bool], written: str) -> None:
    # Leave the first four characters: a wrong country or date may be no number at all.
    for place in range(4, len(written)):
        if written[place].isdecimal():
            wrong = str((int(written[place]) + 1) % 10)
            assert not check(written[:place] + wrong + written[place + 1 :]), place


@pytest.mark.parametrize(
    ("check", "written"),
    [
        (checksums.iban, "GB82 WEST 1234 5698 7654 3"),
        (checksums.iban, "XX82 WEST 1234 5698 7654 32"),
        (checksums.dutch_bsn, "000000000"),
        (checksums.brazilian_cpf, "111.111.111-11"),
        (checksums.polish_pesel, "44134301350"),  # a month that does not exist
        (checksums.us_ssn, "666-45-6789"),
        (checksums.us_ssn, "900-45-6789"),
        (checksums.us_ssn, "123-00-6789"),
        (checksums.us_ssn, "123-45-0000"),
    ],
)
def test_what_is_never_given_out_fails(check: Callable[[str], bool], written: str) -> None:
    assert not check(written)

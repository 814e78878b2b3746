"""What is found in a text, in which forms, and what is not."""

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.safety.findings import Finding, apart
from extproc.safety.secret_patterns import SECRETS
from extproc.safety.text_scan import KINDS, find

CARD = "4111 1111 1111 1111"


def found(text: str) -> list[tuple[str, str]]:
    return [(each.kind, text[each.start : each.end]) for each in find(text)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (f"my card is {CARD}.", "card", CARD),
        ("pay with 4111-1111-1111-1111 exp 12/26", "card", "4111-1111-1111-1111"),
        ("amex 378282246310005", "card", "378282246310005"),
        ("I lost card 630427373398 today", "card", "630427373398"),
        ("IBAN GB82 WEST 1234 5698 7654 32 on Monday", "iban", "GB82 WEST 1234 5698 7654 32"),
        ("send it to de89370400440532013000", "iban", "de89370400440532013000"),
        ("My NIF: 12345678Z", "national_id", "12345678Z"),
        ("codice fiscale RSSMRA85T10A562S", "national_id", "RSSMRA85T10A562S"),
        ("NIR 2 55 08 14 168 025 38", "national_id", "2 55 08 14 168 025 38"),
        ("my BSN is 111222333", "national_id", "111222333"),
        ("PESEL 44051401359", "national_id", "44051401359"),
        ("CPF 529.982.247-25", "national_id", "529.982.247-25"),
        ("SSN 123-45-6789", "national_id", "123-45-6789"),
        ("social security number 123 45 6789", "national_id", "123 45 6789"),
        ("NI number QQ123456C", "national_id", ""),
        ("NI number AB 12 34 56 C", "national_id", "AB 12 34 56 C"),
        ("call +49 30 901820 now", "phone", "+49 30 901820"),
        ("(555) 234-5678", "phone", "(555) 234-5678"),
        ("ring 0490 75 40 81", "phone", "0490 75 40 81"),
        ("03.93.92.16.85", "phone", "03.93.92.16.85"),
        ("Mobile: 723 813 266", "phone", "723 813 266"),
        ("fax 345-899-3560x4587", "phone", "345-899-3560x4587"),
        ("my cell is 5552345678", "phone", "5552345678"),
        ("mail ann.o'neil+x@mail.example.co.uk!", "email", "ann.o'neil+x@mail.example.co.uk"),
    ],
)
def test_personal_data_is_found_where_it_stands(text: str, kind: str, value: str) -> None:
    assert found(text) == ([(kind, value)] if value else [])


@pytest.mark.parametrize(
    "text",
    [
        "order 4111111111111112 has shipped",  # a wrong check digit
        "order 12345678901234567890",
        "invoice 0049 555 1234567",
        "ISBN 978-3-16-148410-0",
        "version 10.15.7 and 1.2.3.4567890",
        "at 192.168.100.200 and 10.0.0.1",
        "commit 5f3e1a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f",
        "uuid 123e4567-e89b-12d3-a456-426614174000",
        "on 2024-01-15 10:30 and 15.01.2024 11",
        "epoch 1700000000000 and 1700000000",
        "it costs 1.000.000 or 12,345,678",
        "pi is 3.14159265358979",
        "git@github.com:owner/repo.git",
        "npm install @scope/package and foo@1.2.3",
        "call me about order 4455667788",
        "the years 1999 2001 2008",
        "lat 52.5200066, lon 13.404954",
        "I called in 2019 about 12 things",
        "a 9-digit number 111222333",
        "sk-short and key-words",
    ],
)
def test_ordinary_numbers_are_not(text: str) -> None:
    assert found(text) == []


TOKENS = {
    "anthropic": "sk-ant-" + "a1B2-" * 8,
    "aws": "AKIA" + "ABCD2345" * 2,
    "azure": "AccountKey=" + "a" * 86 + "==",
    "databricks": "dapi" + "0f" * 16,
    "digitalocean": "dop_v1_" + "0f" * 32,
    "github": "ghp_" + "a1" * 18,
    "gitlab": "glpat-" + "a1B2" * 5,
    "google": "AIza" + "a1B2-" * 7,
    "groq": "gsk_" + "a1B2" * 13,
    "huggingface": "hf_" + "aB" * 17,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + "a1B2" * 10,
    "mailgun": "key-" + "0f" * 16,
    "npm": "npm_" + "a1" * 18,
    "openai": "sk-proj-" + "a1B2" * 12,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAAA==\n-----END RSA PRIVATE KEY-----",
    "pypi": "pypi-" + "a1B2" * 8,
    "sendgrid": "SG." + "a" * 22 + "." + "b" * 43,
    "shopify": "shpat_" + "0f" * 16,
    "slack": "xoxb-" + "123456789012-" * 2 + "abc",
    "stripe": "sk_live_" + "a1" * 12,
    "telegram": "123456789:AA" + "a1B" * 11,
    "twilio": "AC" + "0f" * 16,
    "vault": "hvs." + "a1B2" * 8,
}


@pytest.mark.parametrize("provider", SECRETS)
def test_the_secret_of_each_provider_is_found_whole(provider: str) -> None:
    text = f"use {TOKENS[provider]} for it"
    (finding,) = find(text)
    assert (finding.kind, finding.detail) == ("secret", provider)
    assert text[finding.start : finding.end] == TOKENS[provider]


FORMS = {
    "full-width": "４１１１ １１１１ １１１１ １１１１",
    "mathematical": "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏",
    "Arabic digits": "٤١١١ ١١١١ ١١١١ ١١١١",
    "zero-width characters": "4111\u200b1111\u20601111\ufeff1111",
    "base64": base64.b64encode(f"the card is {CARD}".encode()).decode(),
    "base64, URL-safe": base64.urlsafe_b64encode(f"the card ??? is {CARD}".encode()).decode(),
    "base64 without padding": base64.b64encode(f"my card is {CARD}".encode()).decode().rstrip("="),
    "URL encoding": quote(f"card={CARD}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_hides_a_card(form: str) -> None:
    text = f"Look: {FORMS[form]} !"
    (finding,) = find(text)
    assert (finding.kind, text[finding.start : finding.end]) == ("card", FORMS[form])


def test_a_card_is_found_between_other_numbers() -> None:
    assert found(f"12 {CARD} 2026") == [("card", CARD)]


def test_only_the_kinds_that_are_asked_for_are_found() -> None:
    text = f"a@example.com {CARD}"
    assert {each.kind for each in find(text)} == {"card", "email"}
    assert [each.kind for each in find(text, frozenset({"email"}))] == ["email"]


def test_of_findings_that_overlap_the_longest_stays() -> None:
    long, inner, later = Finding("a", 2, 9), Finding("b", 4, 8), Finding("c", 9, 12)
    assert apart([inner, later, long]) == (long, later)
    assert apart([Finding("a", 0, 3), Finding("b", 2, 9)]) == (Finding("b", 2, 9),)
    assert apart([Finding("a", 0, 3), Finding("b", 0, 3)]) == (Finding("a", 0, 3),)


PIECES = st.sampled_from(
    [
        "4111 1111 1111 1111",
        "a@b.co",
        "+49 30 901820",
        "１",
        "%40",
        "ﷺ",
        "e\u0301",
        "0",
        "-",
        " ",
        "x",
        "\n",
        "=",
        "\ud800",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_findings_lie_in_the_text_in_order_and_apart(text: str) -> None:
    end = 0
    for each in find(text):
        assert end <= each.start < each.end <= len(text)
        assert each.kind in KINDS
        end = each.end


@pytest.mark.parametrize("filler", ["١ ", "zażółć ", "ﷺ", "a%20b ", "x" * 9 + " "])
def test_a_card_is_found_behind_much_other_text(filler: str) -> None:
    text = filler * 2000 + " : " + CARD
    assert find(text)[-1] == Finding("card", len(text) - len(CARD), len(text))

"""Placeholders: which values get which number."""

from extproc.safety.redaction import Redactor, allowed_by

CARD = "4111 1111 1111 1111"


def test_an_equal_value_gets_an_equal_number_in_every_text() -> None:
    redactor = Redactor(["email", "card"])
    assert redactor.redacted("a@example.com and b@example.com") == "[EMAIL_1] and [EMAIL_2]"
    assert redactor.redacted(f"B@EXAMPLE.com, {CARD}") == "[EMAIL_2], [CARD_1]"
    assert (
        redactor.redacted("4111-1111-1111-1111 or ４１１１１１１１１１１１１１１１") == "[CARD_1] or [CARD_1]"
    )


def test_a_text_without_any_is_the_very_same_object() -> None:
    text = "nothing here"
    assert Redactor(["email"]).redacted(text) is text


def test_other_kinds_and_allowed_values_stay() -> None:
    redactor = Redactor(["email"], ["*@OURS.example", "boss@theirs.example"])
    text = f"{CARD} help@ours.example boss@theirs.example me@theirs.example"
    assert redactor.redacted(text) == f"{CARD} help@ours.example boss@theirs.example [EMAIL_1]"


def test_a_redacted_text_contains_nothing_more_to_redact() -> None:
    redactor = Redactor(["email", "card", "phone", "iban", "national_id", "secret"])
    text = f"{CARD}, a@b.co, +49 30 901820, DE89370400440532013000, 12345678Z, AKIAABCDEFGHIJKLMNOP"
    assert redactor.findings(redactor.redacted(text)) == ()


def test_a_pattern_stands_for_the_whole_value() -> None:
    allowed = allowed_by(["help@*"])
    assert allowed("Help@x.example")
    assert not allowed("nohelp@x.example")

"""Who may give feedback: only who has the token, whatever else is wrong."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from extproc.errors import NoFeedback, Unauthorized, Unavailable
from extproc.registry.feedback_token import FeedbackToken
from extproc.registry.model_settings import Auth
from extproc.registry.schema import FeedbackSettings


def token_of(auth: Auth | None, folder: Path, environment: Mapping[str, str] | None = None) -> FeedbackToken:
    token = FeedbackToken(environment or {})
    token.use(FeedbackSettings(token=auth) if auth else None, folder)
    return token


def test_a_token_of_the_environment_or_of_a_file_admits_who_has_it(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"s3cret\r\n")
    for token in (token_of(Auth(file="t"), tmp_path), token_of(Auth(env="T"), tmp_path, {"T": "s3cret"})):
        token.admit("Bearer s3cret")
        token.admit("bearer  s3cret ")
        for other in (
            "",
            "Bearer",
            "Bearer s3cre",
            "Bearer s3cret1",
            "Basic s3cret",
            "s3cret",
            "Bearer é",
        ):
            with pytest.raises(Unauthorized):
                token.admit(other)


def test_without_a_section_nobody_is_admitted(tmp_path: Path) -> None:
    with pytest.raises(NoFeedback):
        FeedbackToken({}).admit("Bearer x")
    with pytest.raises(NoFeedback):
        token_of(None, tmp_path).admit("Bearer ")


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines\n", b"caf\xc3\xa9", None])
def test_a_token_that_cannot_be_used_admits_nobody_and_is_logged_without_itself(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "t").write_bytes(content)
    with caplog.at_level(logging.ERROR):
        token = token_of(Auth(file="t"), tmp_path)
        token.read()
    assert len(caplog.messages) == 1
    assert str(tmp_path / "t") in caplog.messages[0]
    assert "two" not in caplog.messages[0]
    for authorization in ("Bearer ", "Bearer two words", ""):
        with pytest.raises(Unavailable):
            token.admit(authorization)


def test_a_file_is_read_again_on_request_and_the_old_token_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("old")
    token = token_of(Auth(file="t"), tmp_path)
    (tmp_path / "t").write_text("new")
    token.admit("Bearer old")
    token.read()
    token.admit("Bearer new")
    with pytest.raises(Unauthorized):
        token.admit("Bearer old")
    (tmp_path / "t").unlink()
    token.read()
    with pytest.raises(Unavailable):
        token.admit("Bearer new")


def test_a_variable_that_is_absent_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_of(Auth(env="FEEDBACK_TOKEN"), tmp_path)
    assert "$FEEDBACK_TOKEN is not a valid token" in caplog.text
    with pytest.raises(Unavailable):
        token.admit("Bearer ")

"""Asks an OpenAI-compatible server the questions that serving asks an LLM about requests in doubt.

The text of the question and the reading of the reply are those of serving. Serving's budgets, breaker and
cache are not: a measurement asks about each text once.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from extproc.errors import OperatorError
from extproc.lab.datasets import printable
from extproc.lab.figures.number_formats import setting
from extproc.lab.measure.replay import Progress
from extproc.routing.llm_question import PATH, LlmQuestion, opinion_of, request_body
from extproc.vocabulary import LlmOpinion, LlmResult

AT_ONCE: Final = 4  # calls
_UNANSWERED = 5  # questions without a reply until the server is taken for dead; as many open the breaker
_ANSWER_LIMIT = 8 * 1024 * 1024  # bytes, as in serving
_CHUNK = 64 * 1024
_SHOWN = 200  # characters of a server's complaint


class LlmServer(msgspec.Struct, frozen=True):
    """A server to ask."""

    url: str  # of its chat completions
    key: str = ""  # empty: none is sent


class Heard(msgspec.Struct, frozen=True):
    """How one question ended."""

    opinion: LlmOpinion
    seconds: float
    problem: str = ""  # what failed, in words


def completions_url(url: str) -> str:
    """The address of the chat completions of a server, of which ``url`` is the base, with ``/v1`` or without.

    Raises ``ValueError`` if it is not an http or https URL of a host, or has more than a path.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(url)
    if parts.query or parts.fragment or any(c.isspace() or not c.isascii() for c in url):
        raise ValueError(url)
    _ = parts.port  # raises for a port that is no number
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return base + (PATH if not parts.path.strip("/") else PATH.removeprefix("/v1"))


def ask_all(server: LlmServer, questions: Sequence[LlmQuestion], progress: Progress) -> list[Heard]:
    """What the server says to each question, a few at once.

    Questions are asked alone until the server answers one. Raises ``OperatorError`` if the first fails, or if
    there is no reply to the first few: the others would end alike, and thousands of them take hours.
    """
    heard = _first_answers(server, questions)
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="llm")
    try:
        for each in pool.map(lambda question: _ask(server, question), questions[len(heard) :]):
            heard.append(each)
            progress(len(heard), len(questions))
    finally:
        pool.shutdown(cancel_futures=True)
    return heard


def _first_answers(server: LlmServer, questions: Sequence[LlmQuestion]) -> list[Heard]:
    heard: list[Heard] = []
    for question in questions[:_UNANSWERED]:
        heard.append(_ask(server, question))
        result = heard[-1].opinion.result
        if result is LlmResult.FAILED:
            raise OperatorError(
                f"--llm: {server.url}: {heard[-1].problem} (expected a server with OpenAI's chat completions)"
            )
        if result is not LlmResult.TIMEOUT:
            return heard
    if len(heard) == _UNANSWERED:
        raise OperatorError(
            f"--llm: {server.url}: no reply to the first {_UNANSWERED} questions (expected one within "
            f"`llm.deadline_ms`, {setting(questions[0].policy.deadline_s * 1000)} ms)"
        )
    return heard


def _ask(server: LlmServer, question: LlmQuestion) -> Heard:
    began = time.monotonic()
    deadline = began + question.policy.deadline_s
    opinion, problem = _opinion(server, question, deadline)
    now = time.monotonic()
    if now > deadline:  # also for a reply that came, because serving does not wait for it
        opinion = _without_answer(question, LlmResult.TIMEOUT)
    return Heard(opinion, now - began, problem)


def _opinion(server: LlmServer, question: LlmQuestion, deadline: float) -> tuple[LlmOpinion, str]:
    failed = _without_answer(question, LlmResult.FAILED)
    try:
        with _OPENER.open(_request(server, question), timeout=question.policy.deadline_s) as response:
            return opinion_of(question, _read(response, deadline)), ""
    except HTTPError as error:
        with error:
            return failed, f"HTTP status {error.code}: {_complaint(error)}"
    except TimeoutError:
        return _without_answer(question, LlmResult.TIMEOUT), "no reply in time"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return _without_answer(question, LlmResult.TIMEOUT), "no reply in time"
        return failed, printable(str(getattr(reason, "strerror", None) or reason))


def _request(server: LlmServer, question: LlmQuestion) -> Request:
    headers = {"content-type": "application/json"}
    if server.key:
        headers["authorization"] = f"Bearer {server.key}"
    return Request(server.url, request_body(question), headers, method="POST")  # noqa: S310 - http(s) only


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """The body. Raises ``OSError`` if it is too large, or if not all of it came in time."""
    parts: list[bytes] = []
    size = 0
    while time.monotonic() <= deadline and (part := response.read1(_CHUNK)):
        parts.append(part)
        size += len(part)
        if size > _ANSWER_LIMIT:
            raise OSError("the reply is larger than 8 MiB")
    if response.length:
        raise OSError("the reply ends too early")
    return b"".join(parts)


def _complaint(error: HTTPError) -> str:
    try:
        return printable(" ".join(error.read(_CHUNK).decode(errors="replace").split())[:_SHOWN])
    except (OSError, HTTPException):
        return ""


def _without_answer(question: LlmQuestion, result: LlmResult) -> LlmOpinion:
    return LlmOpinion(result=result, model=question.policy.model, doubt=question.doubt)


class _Stay(HTTPRedirectHandler):
    """Follows no redirection: it would turn the question into a GET, and take the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = build_opener(_Stay)

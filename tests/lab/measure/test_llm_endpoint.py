"""Questions to an OpenAI-compatible server: addresses, failures and deadlines."""

import socket

import msgspec
import pytest

from extproc.errors import OperatorError
from extproc.lab.measure.llm_endpoint import Heard, LlmServer, ask_all, completions_url
from extproc.routing.llm_question import LlmPolicy, LlmQuestion
from extproc.vocabulary import LlmResult, Reason
from tests.lab.measure.rule_server import Reply, RuleServer, says

POLICY = LlmPolicy(
    model="small", upstream_model="small-8b", routes=("code", "greeting"), system="the routes",
    deadline_s=20.0, max_share=0.001, per_second=0.001,
)  # fmt: skip


def questions(*texts: str, **changes: object) -> list[LlmQuestion]:
    policy = msgspec.structs.replace(POLICY, **changes)
    return [LlmQuestion(policy, "v1", text, Reason.LOW_MARGIN) for text in texts]


def heard(server: RuleServer, asked: list[LlmQuestion], key: str = "") -> list[Heard]:
    return ask_all(LlmServer(completions_url(server.url), key), asked, lambda done, total: None)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/", "http://h:8000/v1/chat/completions"),
        ("https://h/openai/v1", "https://h/openai/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_a_servers_base_url_is_given_with_its_version_or_without(given: str, asked: str) -> None:
    assert completions_url(given) == asked


@pytest.mark.parametrize(
    "url",
    ["h:8000", "file:///etc/passwd", "http://", "http://h:x", "http://u:p@h", "http://h/?a=b", "http://h /", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        completions_url(url)


def test_each_question_is_asked_once_as_in_serving_whatever_the_budget() -> None:
    def rule(text: str) -> Reply:
        return says("code" if "code" in text else "none")

    texts = [f"text {i} {'code' if i % 2 else ''}" for i in range(20)]
    with RuleServer(rule).running() as server:
        answers = heard(server, questions(*texts), key="secret")
        assert [each.opinion.route for each in answers] == ["", "code"] * 10
        assert [each.opinion.result for each in answers] == [LlmResult.NONE, LlmResult.MATCHED] * 10
        assert len(server.journal) == 20
        path, headers, body = server.journal[0]
        assert path == "/v1/chat/completions"
        assert headers["authorization"] == "Bearer secret"
        assert (body["model"], body["messages"][0]["content"]) == ("small-8b", "the routes")
        assert body["response_format"]["type"] == "json_schema"


def test_without_a_key_none_is_sent() -> None:
    with RuleServer(lambda text: says("code")).running() as server:
        heard(server, questions("a"))
        assert "authorization" not in server.journal[0][1]


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (Reply(b"busy", status=503), LlmResult.FAILED),
        (Reply(b"{}"), LlmResult.INVALID),
        (Reply(b"not json"), LlmResult.INVALID),
        (says("admin"), LlmResult.INVALID),
        (Reply(b"{", headers={"content-length": "99"}), LlmResult.FAILED),
        (Reply(status=302, headers={"location": "http://127.0.0.1:1/"}), LlmResult.FAILED),
        (Reply(b" " * (9 << 20)), LlmResult.FAILED),
    ],
)
def test_a_bad_reply_is_counted_and_the_other_questions_are_asked(reply: Reply, result: LlmResult) -> None:
    with RuleServer(lambda text: reply if text == "bad" else says("code")).running() as server:
        answers = heard(server, questions("first", "bad", "last"))
    assert [each.opinion.result for each in answers] == [LlmResult.MATCHED, result, LlmResult.MATCHED]
    assert bool(answers[1].problem) == (result is LlmResult.FAILED)


def test_a_reply_after_the_deadline_is_a_timeout() -> None:
    with RuleServer(lambda text: Reply(silent=True)).running() as server:
        (answer,) = heard(server, questions("a", deadline_s=0.05))
    assert answer.opinion.result is LlmResult.TIMEOUT
    assert answer.seconds >= 0.05


def test_a_server_that_refuses_the_first_question_is_an_error_with_what_it_says() -> None:
    refusal = Reply(b'{"error": "wrong \x1b[31m key"}', status=401)
    with RuleServer(lambda text: refusal).running() as server:
        with pytest.raises(OperatorError) as error:
            heard(server, questions("a", "b"))
        assert len(server.journal) == 1
    assert "HTTP status 401: {" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_server_that_is_dead_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OperatorError, match=f"--llm: {url}/v1/chat/completions: Connection refused"):
            ask_all(LlmServer(completions_url(url)), questions("a"), lambda done, total: None)


def test_a_server_that_never_replies_is_left_alone_after_five_questions() -> None:
    with RuleServer(lambda text: Reply(silent=True)).running() as server:
        with pytest.raises(OperatorError, match=r"no reply to the first 5 questions \(expected one within"):
            heard(server, questions(*map(str, range(20)), deadline_s=0.05))
        assert len(server.journal) <= 5


def test_a_server_that_wakes_up_late_is_measured_with_its_timeouts() -> None:
    with RuleServer(lambda text: Reply(silent=True) if text == "0" else says("code")).running() as server:
        answers = heard(server, questions(*map(str, range(6)), deadline_s=2.0))
    assert [each.opinion.result for each in answers] == [LlmResult.TIMEOUT] + [LlmResult.MATCHED] * 5


def test_no_question_needs_no_server() -> None:
    assert ask_all(LlmServer("http://127.0.0.1:1"), [], lambda done, total: None) == []

"""The front door as a whole: which requests are LLM calls, any bytes, and errors in each API's shape."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st

from extproc import apis
from extproc.errors import BadRequest
from extproc.vocabulary import Api
from tests.apis.spelling import thorough

ASK = [{"role": "user", "content": "Hello"}]
VALID: dict[Api, dict[str, Any]] = {
    Api.OPENAI_CHAT: {"messages": ASK, "stream_options": {"include_usage": None}},
    Api.OPENAI_COMPLETIONS: {"prompt": ["Hello", "é"], "max_tokens": 5},
    Api.OPENAI_RESPONSES: {"input": ASK, "reasoning": {"effort": "low"}},
    Api.ANTHROPIC_MESSAGES: {"messages": ASK, "max_tokens": 5, "thinking": {"type": "adaptive"}},
}
EACH = pytest.mark.parametrize("api", Api)


# --- Which requests are LLM calls ---------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/tenants/a", "/v1/openai"])
@pytest.mark.parametrize("suffix", ["", "/", "?api-version=2", "?next=/v1/models", "/?beta=true"])
@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", Api.OPENAI_CHAT),
        ("/chat/completions", Api.OPENAI_CHAT),
        ("/v1/completions", Api.OPENAI_COMPLETIONS),
        ("/v1/responses", Api.OPENAI_RESPONSES),
        ("/v1/messages", Api.ANTHROPIC_MESSAGES),
    ],
)
def test_a_post_to_an_apis_path_is_an_llm_call(prefix: str, path: str, suffix: str, api: Api) -> None:
    assert apis.api_of("POST", prefix + path + suffix) is api


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PUT", ""])
def test_another_method_is_none(method: str, path: str) -> None:
    assert apis.api_of(method, path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/chatcmpl-1",
        "/v1/webchat/completions",
        "/v1/deep/completions",
        "/completions",
        "/responses",
        "/messages",
        "/xv1/messages",
        "/v1/responses/resp_1",
        "/v1/responses/resp_1/cancel",
        "/v1/responses/input_tokens",
        "/v1/messages/count_tokens",
        "/v1/messages/batches",
        "/v1/threads/thread_1/messages",
        "/v1/embeddings",
        "/v1/models?path=/chat/completions",
        "/v1/models?path=/v1/messages",
    ],
)
def test_every_other_path_is_none(path: str) -> None:
    assert apis.api_of("POST", path) is None


# --- Any bytes ----------------------------------------------------------------------------------


def body_of(api: Api, **fields: Any) -> bytes:
    return json.dumps({"model": "auto", **VALID[api], **fields}).encode()


words = [
    *'{}[]:,"\\',
    *("\\u", "d83d", "null", "1", " ", "é", "\x00", "true"),
    *(
        f'"{name}":'
        for name in ("model", "messages", "prompt", "input", "max_tokens", "reasoning", "thinking")
    ),
    *('"role"', '"user"', '"content"', '"type"', '"text"'),
]
fragments = st.lists(st.sampled_from(words), max_size=40).map(lambda f: "".join(f).encode())


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Api, bytes]:
    """A good body with some bytes cut out and others put in their place."""
    api = draw(st.sampled_from(Api))
    valid = body_of(api, tools=[{"type": "function", "name": "é"}], x={"model": 1.5e3, "y": "\U0001f600"})
    start = draw(st.integers(0, len(valid)))
    stop = draw(st.integers(start, min(len(valid), start + 8)))
    return api, valid[:start] + draw(st.binary(max_size=4)) + valid[stop:]


@thorough
@given(st.one_of(st.tuples(st.sampled_from(Api), st.one_of(st.binary(), fragments)), damaged()))
def test_any_bytes_are_a_request_or_a_bad_request(given_body: tuple[Api, bytes]) -> None:
    api, body = given_body
    try:
        request = apis.parse(api, body)
    except BadRequest:
        return
    members = json.loads(body, object_pairs_hook=list)
    assert [value for key, value in members if key == "model"] in ([request.model], [None], [])
    for path, span in request.spans.items():
        value = dict(members)[path.partition(".")[0]]
        nested = path.partition(".")[2]
        assert json.loads(body[slice(*span)], object_pairs_hook=list) == (
            dict(value)[nested] if nested else value
        )


def repeated(unit: bytes) -> Callable[[int], bytes]:
    return lambda size: unit * (size // len(unit))


def inside(prefix: bytes, unit: bytes, suffix: bytes) -> Callable[[int], bytes]:
    return lambda size: prefix + unit * (size // len(unit)) + suffix


@EACH
@pytest.mark.parametrize(
    "hostile",
    [
        repeated(b"["),
        repeated(b"{"),
        repeated(b'"",'),
        repeated(b'"'),
        repeated(b"\\"),
        repeated(b" "),
        repeated(b"\x00"),
        repeated(b'"model",'),
        repeated(b'{"model":'),
        repeated(b'{"messages":['),
        inside(b'{"messages":[{"role":"user","content":"', b"\\n", b'"}],"model":"a"}'),
        inside(b'{"messages":[{"role":"user","content":[', b'{"type":""},', b'{"type":""}]}],"model":"a"}'),
        inside(b'{"input":[', b'{"type":"message","content":""},', b'{}],"model":"a"}'),
        inside(b'{"input":[', b'{"type":"additional_tools","tools":[{}]},', b'{}],"model":"a"}'),
        inside(b'{"prompt":[', b"1,", b'1],"model":"a"}'),
        inside(b'{"prompt":[', b"[],", b'[]],"model":"a"}'),
        inside(b'{"prompt":[', b'"",', b'""],"model":"a"}'),
        inside(b'{"messages":[{"role":"user"}],"model"', b" ", b':"a"}'),
        inside(b'{"messages":[{"role":"user"}],', b'"model":"b",', b'"model":"a"}'),
        inside(b'{"messages":[{"role":"user"}],"model":"', b"a", b'"}'),
        inside(
            b'{"model":"a","prompt":"","input":"","messages":[{"role":"user","content":""}],"max_tokens":',
            b"1",
            b"}",
        ),
        inside(b'{"reasoning":{', b'"effort":1,', b'"x":1},"model":"a","input":"x"}'),
    ],
)
def test_a_large_hostile_body_is_a_request_or_a_bad_request(
    api: Api, hostile: Callable[[int], bytes]
) -> None:
    body = hostile(1 << 20)
    with suppress(BadRequest):
        assert apis.parse(api, body).model == "a"


@EACH
def test_depth_is_bounded_even_where_nothing_is_read(api: Api) -> None:
    body = body_of(api)[:-1] + b', "x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(BadRequest, match="nested too deeply"):
        apis.parse(api, body)


@EACH
def test_objects_and_tools_are_bounded(api: Api) -> None:
    with pytest.raises(BadRequest, match="at most 250000 opening braces"):
        apis.parse(api, body_of(api, x=[{}] * 250_000))
    if api is not Api.OPENAI_COMPLETIONS:  # it has no tools
        assert len(apis.parse(api, body_of(api, tools=[{"type": "x"}] * 2048)).tools) == 2048
        with pytest.raises(BadRequest, match="'tools' must hold at most 2048 tools") as caught:
            apis.parse(api, body_of(api, tools=[{"type": "x"}] * 2049))
        assert caught.value.param == "tools"


@EACH
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "'model' must be a string, not null."),
        ({"model": 4}, "'model' must be a string, not a number."),
        ({"model": ""}, "'model' must not be empty."),
        ({"model": "m" * 1025}, "'model' must have at most 1024 characters."),
    ],
)
def test_every_api_needs_a_model(api: Api, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        apis.parse(api, body_of(api, **fields))
    assert (caught.value.message, caught.value.param) == (message, "model")


# --- Errors, as the official clients read them --------------------------------------------------


def answered(status: int, body: bytes) -> httpx2.Response:
    return httpx2.Response(status, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize("api", [Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS, Api.OPENAI_RESPONSES])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "invalid_request_error"),
        (499, "invalid_request_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_an_error_has_openais_shape(api: Api, status: int, kind: str) -> None:
    body = apis.error_body(
        api, status=status, message='No "x" é', code="content_policy_violation", param="model"
    )
    transport = httpx2.MockTransport(lambda _: answered(status, body))
    with (
        openai.OpenAI(api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])
    error = caught.value
    assert (error.status_code, error.type, error.code, error.param) == (
        status,
        kind,
        "content_policy_violation",
        "model",
    )
    assert json.loads(body)["error"]["message"] == 'No "x" é'


def test_an_error_without_code_and_param_says_null_as_openais_clients_read_both() -> None:
    body = apis.error_body(Api.OPENAI_CHAT, status=400, message="No.")
    assert json.loads(body)["error"] == {
        "message": "No.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


texts = st.text(max_size=20)


@thorough
@given(st.sampled_from(Api), st.integers(400, 599), texts, st.none() | texts, st.none() | texts)
def test_any_error_is_json_with_its_message(
    api: Api, status: int, message: str, code: str | None, param: str | None
) -> None:
    body = json.loads(apis.error_body(api, status=status, message=message, code=code, param=param))
    shape = {"type", "error"} if api is Api.ANTHROPIC_MESSAGES else {"error"}
    assert (set(body), body["error"]["message"]) == (shape, message)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_an_error_has_anthropics_shape_and_its_type_by_status(status: int, kind: str) -> None:
    body = apis.error_body(Api.ANTHROPIC_MESSAGES, status=status, message='No "x" é', code="c", param="model")
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": 'No "x" é'}}
    transport = httpx2.MockTransport(lambda _: answered(status, body))
    with (
        anthropic.Anthropic(
            api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
        ) as client,
        pytest.raises(anthropic.APIStatusError) as caught,
    ):
        client.messages.create(model="auto", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    assert (caught.value.status_code, caught.value.type) == (status, kind)
    if kind != "request_too_large":  # documented, yet absent from the client's own types
        assert ErrorResponse.model_validate_json(body).error.message == 'No "x" é'

"""Bodies edited by policy: what must change does, and no other byte."""

import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc import apis
from extproc.apis import Edit
from extproc.vocabulary import Api, BodyPolicy, ChatRequest, Effort, Span
from tests.apis.spelling import json_values, keys, names, spelled, styles, thorough

CHAT, COMPLETIONS, RESPONSES, MESSAGES = Api
HELLO = [{"role": "user", "content": "auto"}]
NEEDED: dict[Api, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    COMPLETIONS: {"prompt": "auto"},
    RESPONSES: {"input": "auto"},
    MESSAGES: {"messages": HELLO, "max_tokens": 5000},
}


def edited(api: Api, body: bytes, **policy: Any) -> bytes:
    return apis.with_policy(body, apis.parse(api, body), BodyPolicy(**{"model": "auto", **policy}))


# --- Single edits, byte for byte ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "policy", "before", "after"),
    [
        (
            CHAT,
            {"model": 'a"b'},
            b'"model" :"auto" ,"seed":9007199254740993',
            b'"model" :"a\\"b" ,"seed":9007199254740993',
        ),
        (CHAT, {"max_tokens": 9}, b'"model":"auto"', b'"max_completion_tokens":9,"model":"auto"'),
        (CHAT, {"max_tokens": 9}, b'"model":"auto","max_tokens": 10', b'"model":"auto","max_tokens": 9'),
        (
            CHAT,
            {"max_tokens": 9},
            b'"model":"auto","max_tokens": null',
            b'"max_completion_tokens":9,"model":"auto","max_tokens": null',
        ),
        (
            CHAT,
            {"max_tokens": 9},
            b'"max_tokens":5,"model":"auto","max_completion_tokens":1e3',
            b'"max_tokens":5,"model":"auto","max_completion_tokens":9',
        ),
        (CHAT, {"reasoning": Effort.LOW}, b'"model":"auto"', b'"reasoning_effort":"low","model":"auto"'),
        (
            CHAT,
            {"reasoning": Effort.NONE},
            b'"model":"auto","reasoning_effort":"high"',
            b'"model":"auto","reasoning_effort":"none"',
        ),
        (
            CHAT,
            {"include_usage": True},
            b'"model":"auto","stream":true',
            b'"stream_options":{"include_usage":true},"model":"auto","stream":true',
        ),
        (
            CHAT,
            {"include_usage": True},
            b'"stream_options": { "x" : 1 },"model":"auto","stream":true',
            b'"stream_options": {"include_usage":true, "x" : 1 },"model":"auto","stream":true',
        ),
        (
            CHAT,
            {"include_usage": True},
            b'"stream_options": { },"model":"auto","stream":true',
            b'"stream_options": {"include_usage":true },"model":"auto","stream":true',
        ),
        (
            COMPLETIONS,
            {"include_usage": True},
            b'"stream_options":{"include_usage":null, "x":1},"model":"auto","stream":true',
            b'"stream_options":{"include_usage":true, "x":1},"model":"auto","stream":true',
        ),
        (
            COMPLETIONS,
            {"include_usage": True},
            b'"stream_options":null,"model":"auto","stream":true',
            b'"stream_options":{"include_usage":true},"model":"auto","stream":true',
        ),
        (COMPLETIONS, {"max_tokens": 9}, b'"model":"auto"', b'"max_tokens":9,"model":"auto"'),
        (RESPONSES, {"max_tokens": 9}, b'"model":"auto"', b'"max_output_tokens":9,"model":"auto"'),
        (
            RESPONSES,
            {"reasoning": Effort.HIGH},
            b'"model":"auto","reasoning":{"summary":"auto","effort":"low"}',
            b'"model":"auto","reasoning":{"summary":"auto","effort":"high"}',
        ),
        (RESPONSES, {"model": "b"}, b'"prompt":{"id":"x"}', b'"model":"b","prompt":{"id":"x"}'),
        (
            MESSAGES,
            {"reasoning": Effort.NONE},
            b'"model":"auto","thinking":{"type":"enabled","budget_tokens":2000}',
            b'"model":"auto","thinking":{"type":"disabled"}',
        ),
        (
            MESSAGES,
            {"reasoning": Effort.LOW},
            b'"model":"auto","output_config":{"format":{}}',
            b'"thinking":{"type":"adaptive"},"model":"auto","output_config":{"effort":"low","format":{}}',
        ),
        (
            MESSAGES,
            {"reasoning": Effort.LOW},
            b'"model":"auto","thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"low"}',
            b'"model":"auto","thinking":{"type":"adaptive","display":"omitted"},"output_config":{"effort":"low"}',
        ),
    ],
)
def test_an_edit_is_minimal(api: Api, policy: dict[str, Any], before: bytes, after: bytes) -> None:
    rest = b"," + json.dumps(NEEDED[api])[1:].encode()
    assert edited(api, b"{" + before + rest, **policy) == b"{" + after + rest


@pytest.mark.parametrize(
    ("max_tokens", "budget", "limit", "after"),
    [
        (8000, 4000, 5000, {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 4000}}),
        (8000, 4000, 4000, {"max_tokens": 4000, "thinking": {"type": "enabled", "budget_tokens": 2000}}),
        (8000, 4000, 1100, {"max_tokens": 1100, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (8000, 4000, 1024, {"max_tokens": 1024, "thinking": {"type": "disabled"}}),
        (1000, 4000, 2000, {"max_tokens": 1000, "thinking": {"type": "enabled", "budget_tokens": 4000}}),
    ],
)
def test_a_lowered_limit_never_makes_a_good_thinking_budget_a_bad_one(
    max_tokens: int, budget: int, limit: int, after: dict[str, Any]
) -> None:
    thinking = {"type": "enabled", "budget_tokens": budget}
    body = json.dumps(
        {"model": "auto", "messages": HELLO, "max_tokens": max_tokens, "thinking": thinking}
    ).encode()
    assert json.loads(edited(MESSAGES, body, max_tokens=limit)) == {
        "model": "auto",
        "messages": HELLO,
        **after,
    }


def test_usage_is_asked_for_in_streams_only() -> None:
    body = json.dumps({"model": "auto", "messages": HELLO}).encode()
    assert edited(CHAT, body, include_usage=True) is body


def test_the_same_object_comes_back_when_there_is_nothing_to_change() -> None:
    body = b'{"model": "\\u0061uto", "max_tokens": 5, "messages": [{"role": "user"}]}'
    assert edited(CHAT, body, max_tokens=5) is body


def test_members_of_an_object_that_is_not_given_are_set_together() -> None:
    body = b'{"model": "auto", "input": "x"}'
    request = apis.parse(RESPONSES, body)
    both = [Edit("reasoning.effort", "low"), Edit("reasoning.summary", None)]
    assert (
        apis.edit(body, request, both)
        == b'{"reasoning":{"effort":"low","summary":null},"model": "auto", "input": "x"}'
    )


def test_two_edits_of_the_same_bytes_are_a_defect() -> None:
    body = b'{"model": "auto", "input": "x", "reasoning": {"effort": "low"}}'
    request = apis.parse(RESPONSES, body)
    with pytest.raises(ValueError, match="same bytes"):
        apis.edit(body, request, [Edit("reasoning", None), Edit("reasoning.effort", "high")])


# --- Any body, any policy -----------------------------------------------------------------------

limits = st.one_of(st.none(), st.integers(0, 9000))
efforts = st.sampled_from(["none", "low", "high", None])
others = st.dictionaries(keys, json_values, max_size=2)
OPTIONS: dict[Api, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {
        "max_tokens": limits,
        "max_completion_tokens": limits,
        "reasoning_effort": efforts,
        "stream": st.sampled_from([True, False, None]),
        "stream_options": st.one_of(
            st.none(), st.builds(lambda o, u: o | u, others, st.sampled_from([{}, {"include_usage": False}]))
        ),
    },
    COMPLETIONS: {
        "max_tokens": limits,
        "stream": st.booleans(),
        "stream_options": st.one_of(st.none(), others),
    },
    RESPONSES: {
        "max_output_tokens": limits,
        "reasoning": st.one_of(st.none(), others, st.builds(lambda o, e: o | {"effort": e}, others, efforts)),
    },
    MESSAGES: {
        "max_tokens": st.integers(0, 9000),
        "thinking": st.sampled_from(
            [None, {"type": "disabled"}, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 2048}]
        ),
        "output_config": st.one_of(st.none(), others, st.just({"effort": "max", "format": {"x": 1.50}})),
    },
}
READ = {"tools", "functions", "system", "instructions", "input", "prompt", "messages", "model"}


@st.composite
def requests(draw: st.DrawFn) -> tuple[Api, dict[str, Any]]:
    """A request with unknown fields, models nested in them, and options given, null or absent."""
    api = draw(st.sampled_from(Api))
    unknown = draw(st.dictionaries(keys.filter(lambda key: key not in READ), json_values, max_size=3))
    options = draw(st.fixed_dictionaries({}, optional=OPTIONS[api]))
    return api, {**unknown, **NEEDED[api], **options, "model": draw(names)}


policies = st.builds(
    BodyPolicy,
    model=names,
    max_tokens=st.one_of(st.none(), st.integers(1, 9000)),
    reasoning=st.one_of(st.none(), st.sampled_from(Effort)),
    include_usage=st.booleans(),
)


def expected(api: Api, original: dict[str, Any], policy: BodyPolicy) -> dict[str, Any]:
    """What the policy makes of a body, said in plain values."""
    after = {**original, "model": policy.model}
    limit = policy.max_tokens
    if limit is not None:
        default = {CHAT: "max_completion_tokens", RESPONSES: "max_output_tokens"}.get(api, "max_tokens")
        limit_names = {CHAT: ["max_completion_tokens", "max_tokens"]}.get(api, [default])
        given_limits = [name for name in limit_names if original.get(name) is not None]
        after |= {name: min(original[name], limit) for name in given_limits} or {default: limit}
    if policy.include_usage and api in (CHAT, COMPLETIONS) and original.get("stream"):
        after["stream_options"] = (original.get("stream_options") or {}) | {"include_usage": True}
    thinking = original.get("thinking")
    if policy.reasoning is not None:
        effort = str(policy.reasoning)
        if api is CHAT:
            after["reasoning_effort"] = effort
        elif api is RESPONSES:
            after["reasoning"] = (original.get("reasoning") or {}) | {"effort": effort}
        elif api is MESSAGES:
            after["thinking"] = {"type": "disabled" if effort == "none" else "adaptive"}
            if effort != "none":
                after["output_config"] = (original.get("output_config") or {}) | {"effort": effort}
    elif api is MESSAGES and limit is not None and thinking and limit < original["max_tokens"]:
        budget = thinking.get("budget_tokens", 0)
        if budget >= limit:
            lowered = {"type": "enabled", "budget_tokens": max(1024, limit // 2)}
            after["thinking"] = lowered if limit > 1024 else {"type": "disabled"}
    return after


def cut(body: bytes, request: ChatRequest, path: str) -> Span | None:
    """The bytes that an edit may replace: a value, or none at all right after an opening brace."""
    parent = request.spans.get(path.partition(".")[0])
    if path in request.spans or parent is None:
        return request.spans.get(path)
    return (parent[0] + 1, parent[0] + 1) if body.startswith(b"{", parent[0]) else parent


@thorough
@given(requests(), policies, styles)
def test_a_policy_changes_what_it_must_and_nothing_else(
    asked: tuple[Api, dict[str, Any]], policy: BodyPolicy, style: Random
) -> None:
    api, original = asked
    body = spelled(original, style).encode()
    request = apis.parse(api, body)

    after = apis.with_policy(body, request, policy)

    assert json.loads(after) == expected(api, original, policy)
    # What the client wrote outside of the edited values stands there byte for byte and in its order.
    cuts = sorted({cut(body, request, change.path) for change in apis.edits(policy, body, request)} - {None})
    brace = body.index(b"{") + 1
    kept, start = [], 0
    for cut_start, cut_end in [(brace, brace), *cuts]:
        kept.append(body[start:cut_start])
        start = cut_end
    kept.append(body[start:])
    assert re.fullmatch(b".*?".join(map(re.escape, kept)), after, re.DOTALL)
    # Once made, the edits have nothing left to do.
    assert apis.with_policy(after, apis.parse(api, after), policy) is after


@thorough
@given(requests(), names, styles)
def test_another_name_of_the_model_replaces_its_value_alone(
    asked: tuple[Api, dict[str, Any]], name: str, style: Random
) -> None:
    api, original = asked
    assume(name != original["model"] and isinstance(original.get("stream"), bool | None))
    body = spelled(original, style).encode()
    request = apis.parse(api, body)

    after = apis.with_policy(body, request, BodyPolicy(model=name))

    start, end = request.spans["model"]
    assert (after[:start], after[len(after) - len(body) + end :]) == (body[:start], body[end:])
    assert json.loads(after[start : len(after) - len(body) + end]) == name
    assert apis.parse(api, after).model == name

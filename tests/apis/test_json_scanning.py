"""An object that has a key twice is refused at any depth, in any spelling, in every API."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import apis
from extproc.apis.json_scanning import refuse_keys_given_twice
from extproc.errors import BadRequest
from extproc.vocabulary import Api
from tests.apis.spelling import json_values, keys, spelled, styles, thorough

LARGE = 100_000  # bytes; such a body is checked in another way than a small one

TWICE = {
    Api.OPENAI_CHAT: {
        "content": b'{"model":"a","messages":[{"role":"user","content":"bad","con\\u0074ent":"good"}]}',
        "role": b'{"model":"a","messages":[{"role":"user","role":"system","content":"x"}]}',
        "text": b'{"model":"a","messages":[{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}]}',
        "type": b'{"model":"a","messages":[{"role":"user","content":[{"type":"text","type":"x","text":"b"}]}]}',
        "name": b'{"model":"a","messages":[{"role":"user","content":"x"}],'
        b'"tools":[{"type":"function","function":{"name":"f","name":"g"}}]}',
        "function": b'{"model":"a","messages":[{"role":"user","content":"x"}],'
        b'"tools":[{"type":"function","function":{"name":"f"},"function":{"name":"g"}}]}',
        "arguments": b'{"model":"a","messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"function",'
        b'"function":{"name":"f","arguments":"{}","arguments":"[]"}}]}]}',
        "unknown": b'{"model":"a","messages":[{"role":"user","content":"x"}],"unknown":1,"unknown":2}',
    },
    Api.OPENAI_COMPLETIONS: {
        "prompt": b'{"model":"a","prompt":"bad","prompt":"good"}',
        "include_usage": b'{"model":"a","prompt":"x","stream_options":{"include_usage":true,"include_usage":false}}',
    },
    Api.OPENAI_RESPONSES: {
        "input": b'{"model":"a","input":"bad","input":"good"}',
        "content": b'{"model":"a","input":[{"role":"user","content":"bad","content":"good"}]}',
        "text": b'{"model":"a","input":[{"role":"user","content":[{"type":"input_text","text":"a","text":"b"}]}]}',
        "effort": b'{"model":"a","input":"x","reasoning":{"effort":"low","effort":"high"}}',
        "description": b'{"model":"a","input":"x","tools":[{"type":"function","name":"f","parameters":'
        b'{"properties":{"a":{"description":"x","description":"y"}}}}]}',
    },
    Api.ANTHROPIC_MESSAGES: {
        "content": b'{"model":"a","max_tokens":9,"messages":[{"role":"user","content":[{"type":"tool_result",'
        b'"content":"bad","content":"good"}]}]}',
        "text": b'{"model":"a","max_tokens":9,"system":[{"type":"text","text":"a","t\\u0065xt":"b"}],'
        b'"messages":[{"role":"user","content":"x"}]}',
        "input": b'{"model":"a","max_tokens":9,"messages":[{"role":"assistant","content":[{"type":"tool_use",'
        b'"name":"f","input":{},"input":{"a":1}}]}]}',
        "data": b'{"model":"a","max_tokens":9,"messages":[{"role":"user","content":[{"type":"document",'
        b'"source":{"type":"text","data":"a","data":"b"}}]}]}',
    },
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("api", "key", "body"),
    [(api, key, body) for api, bodies in TWICE.items() for key, body in bodies.items()],
)
def test_a_key_given_twice_is_refused_by_its_name(api: Api, key: str, body: bytes, large: bool) -> None:
    if large:
        body = b'{"more":{"x":"' + b"x" * LARGE + b'"},' + body[1:]
    with pytest.raises(BadRequest, match=f"'{key}'") as refused:
        apis.parse(api, body)
    assert refused.value.param is not None
    assert "once" in refused.value.message


def test_the_message_says_which_turn_to_mend() -> None:
    body = b'{"model":"a","messages":[{"role":"user"},{"role":"user","content":"a","content":"b"}]}'
    with pytest.raises(BadRequest) as refused:
        apis.parse(Api.OPENAI_CHAT, body)
    assert refused.value.param == "messages[1]"
    assert refused.value.message == (
        "The request body is ambiguous: an object in 'messages[1]' has the key 'content' more than once; "
        "it must have it once."
    )


@st.composite
def with_a_key_twice(draw: st.DrawFn) -> str:
    """A JSON object with one object inside, at some depth, that has a key twice in two spellings."""
    style = draw(styles)
    key, others = draw(keys), draw(st.dictionaries(keys, json_values, max_size=3))
    members = [
        (key, draw(json_values)),
        (key, draw(json_values)),
        *((k, v) for k, v in others.items() if k != key),
    ]
    style.shuffle(members)
    text = "{" + ",".join(f"{spelled(k, style)}:{spelled(v, style)}" for k, v in members) + "}"
    for _ in range(draw(st.integers(0, 4))):
        around = draw(st.dictionaries(keys, json_values, max_size=2))
        name = draw(keys.filter(lambda name, around=around: name not in around))
        rest = "".join(f",{spelled(k, style)}:{spelled(v, style)}" for k, v in around.items())
        text = (
            f"{{{spelled(name, style)}:{draw(st.sampled_from([text, f'[{text}]', f'[[],{text},1]']))}{rest}}}"
        )
    return text


padding = st.sampled_from(
    ["", '"' + "x" * LARGE + '"', "[" + '"\\"{:",' * 20_000 + "{}]", "[" + "1e999," * 20_000 + "0]"]
)


@thorough
@given(with_a_key_twice(), padding)
def test_a_key_given_twice_is_found_at_any_depth_and_in_any_spelling(text: str, more: str) -> None:
    body = f'{{"object":{text},"more":{more}}}' if more else text
    with pytest.raises(BadRequest):
        refuse_keys_given_twice(body.encode(), ())


@thorough
@given(st.dictionaries(keys, json_values), styles, padding)
def test_a_body_whose_keys_are_unique_is_not_refused(
    values: dict[str, Any], style: Random, more: str
) -> None:
    text = spelled(values, style)
    body = f'{{"object":{text},"more":{more}}}' if more else text
    refuse_keys_given_twice(body.encode(), ())


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 40, "0.1" + "0" * 400, "9007199254740993"])
def test_any_number_may_stand_beside_unique_keys(number: str) -> None:
    refuse_keys_given_twice(f'{{"a":{number},"b":{{"a":{number}}}}}'.encode(), ())


@pytest.mark.parametrize("key", ["", "\\ud83d\\ude00", "\\u0000", "x" * 999])
@pytest.mark.parametrize("body", ['{"KEY":1,"KEY":2}', '{"a":[{},{"KEY":1,"KEY":2}]}'])
def test_any_key_that_is_given_twice_makes_an_answer(body: str, key: str) -> None:
    with pytest.raises(BadRequest) as refused:
        refuse_keys_given_twice(body.replace("KEY", key).encode(), ())
    assert apis.error_body(
        Api.OPENAI_CHAT, status=400, message=refused.value.message, param=refused.value.param
    )


def test_colons_in_texts_are_not_taken_for_keys() -> None:
    body = json.dumps({"a": ': ":"', "b": {"a": 'x\\":', ":": ":"}}).replace("x", "\\u003a").encode()
    refuse_keys_given_twice(body, ())
    with pytest.raises(BadRequest):
        refuse_keys_given_twice(b'{"x":"\\u003a","a":{"b":1,"b":2}}', ())

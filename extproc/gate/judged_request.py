"""What a request asks of its answer, read from its body: the form, and the tools that it may call."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from extproc import apis
from extproc.errors import BadRequest
from extproc.vocabulary import Api

QUESTION_LIMIT: Final = 16_384
"""Characters of a question that gates read."""


class Format(StrEnum):
    """The form in which a request asks for its answer."""

    NONE = "none"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


class JudgedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of its answer."""

    api: Api
    text: str = ""  # of the latest user turn; at most QUESTION_LIMIT characters
    format: Format = Format.NONE
    schema: Mapping[str, Any] | None = None  # of Format.JSON_SCHEMA; None: it is missing or unusable
    # The tools offered, with the JSON schema of their arguments. None: the arguments may be any text.
    tools: Mapping[str, Mapping[str, Any] | None] = {}
    max_tokens: int | None = None
    model: str = ""  # as the client named it


_Schema = Mapping[str, Any]
_Form = tuple[Format, _Schema | None]
_ANY_FORM: Final[_Form] = (Format.NONE, None)

# Bytes of a schema, or of all tools. Larger ones are not read, because compiling a schema is costly.
_SCHEMA_LIMIT: Final = 65_536


class _Members(msgspec.Struct, gc=False):
    """The members of all APIs' bodies that ask something of the answer."""

    response_format: Raw | UnsetType = UNSET  # chat completions, and completions of some servers
    text: Raw | UnsetType = UNSET  # responses
    output_config: Raw | UnsetType = UNSET  # messages
    output_format: Raw | UnsetType = UNSET  # messages, in the beta of the API
    tools: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET  # chat completions, the old name of `tools`


_MEMBERS = msgspec.json.Decoder(_Members)


def read(api: Api, body: bytes) -> JudgedRequest:
    """What the request ``body`` of ``api`` asks of its answer; nothing if it cannot be read."""
    try:
        request = apis.parse(api, body)
    except BadRequest:
        return JudgedRequest(api=api)
    members = _MEMBERS.decode(body)
    form, schema = _FORMS[api](members)
    return JudgedRequest(
        api=api,
        text=request.user_text[:QUESTION_LIMIT],
        format=form,
        schema=schema,
        tools=dict.fromkeys(request.tools) | dict(_tools(members)),
        max_tokens=request.max_tokens,
        model=request.model,
    )


def _chat_form(members: _Members) -> _Form:
    form = _object(_decoded(members.response_format))
    return _form(form, _object(form.get("json_schema")))


def _responses_form(members: _Members) -> _Form:
    form = _object(_object(_decoded(members.text)).get("format"))
    return _form(form, form)


def _messages_form(members: _Members) -> _Form:
    form = _object(_object(_decoded(members.output_config)).get("format"))
    form = form or _object(_decoded(members.output_format))
    return _form(form, form)


_FORMS: Final[Mapping[Api, Callable[[_Members], _Form]]] = {
    Api.OPENAI_CHAT: _chat_form,
    Api.OPENAI_COMPLETIONS: _chat_form,
    Api.OPENAI_RESPONSES: _responses_form,
    Api.ANTHROPIC_MESSAGES: _messages_form,
}


def _form(form: _Schema, holder: _Schema) -> _Form:
    kind = form.get("type")
    if kind == Format.JSON_OBJECT:
        return Format.JSON_OBJECT, None
    if kind == Format.JSON_SCHEMA:
        return Format.JSON_SCHEMA, _object(holder.get("schema")) or None
    return _ANY_FORM


def _tools(members: _Members) -> Iterator[tuple[str, _Schema | None]]:
    """Each function with its schema. Other tools have none."""
    for raw in (members.tools, members.functions):
        tools = _decoded(raw)
        for tool in tools if isinstance(tools, list) else ():
            yield from _tool(_object(tool), top=raw is members.functions)


def _tool(tool: _Schema, *, top: bool) -> Iterator[tuple[str, _Schema | None]]:
    kind = tool.get("type")
    if kind == "namespace":
        inner = tool.get("tools")
        for one in inner if isinstance(inner, list) else ():
            yield from _tool(_object(one) | {"type": "function"}, top=True)
        return
    function = _object(tool.get("function")) if kind == "function" else {}
    defined = function or tool
    name = defined.get("name")
    if not isinstance(name, str) or not name:
        return
    if "input_schema" in defined:
        yield name, _object(defined["input_schema"])
    elif kind == "function" or top:
        yield name, _object(defined.get("parameters"))


def _decoded(raw: Raw | UnsetType) -> object:
    """The value, or None if it is missing, too large or not JSON."""
    if raw is UNSET or len(raw) > _SCHEMA_LIMIT:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

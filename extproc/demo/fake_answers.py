"""What a fake model is asked and what it says, whichever API it speaks.

Pure: values in, values out. The modules of the APIs turn bytes into an ``Ask`` and an ``FakeAnswer``
into documents and events.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from extproc.demo.fake_structured import NoInstance, instance

JsonObject = dict[str, Any]

# What an object is like where a client asks for JSON, and for no schema of it.
ANY_OBJECT: JsonObject = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}

_WORD = re.compile(r"\S+\s*")
_ECHOED_WORDS = 12


class ApiError(Exception):
    """A request that the API refuses. Each API has its own shape for what its client gets."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request of any API comes to."""

    model: str
    question: str  # the text of the latest user turn
    prompt_tokens: int  # words of all that the model reads
    limit: int | None = None  # the most tokens that the client wants
    stream: bool = False
    include_usage: bool = True  # tell the usage in the stream, where the API leaves that to the client
    tools: Mapping[str, JsonObject] = {}  # the JSON schema of each tool's arguments, by the tool's name
    called: frozenset[str] = frozenset()  # the tools that the conversation has called already
    tool_choice: str = "auto"  # or "none", "required", or the name of a tool
    schema: JsonObject | None = None  # of the JSON that the client wants as the text
    asks: bool = True  # the latest turn is a user's; else it is a tool's result: time to answer in words
    choices: int = 1  # answers wanted


class Identity(msgspec.Struct, frozen=True):
    """What an answer says of itself."""

    token: str  # 32 hexadecimal digits; each API puts its own prefixes before it
    created: int  # Unix seconds
    model: str


class FakeAnswer(msgspec.Struct, frozen=True):
    """What the model says: words, or one call of the tool ``tool``. Tokens are counted as words."""

    words: tuple[str, ...]  # with the white space that follows each
    finish: Literal["stop", "length", "tool"]
    prompt_tokens: int
    completion_tokens: int
    tool: str = ""
    arguments: JsonObject = {}  # of the call

    @property
    def text(self) -> str:
        """All words."""
        return "".join(self.words)

    @property
    def encoded_arguments(self) -> str:
        """The arguments as JSON text."""
        return json.dumps(self.arguments)


def decode(body: bytes, kind: type[Any]) -> Any:
    """The request in ``body``, a struct ``kind``. Raises ApiError (400) for what it cannot be made from."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"Invalid request: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request. ({error})") from error


def words_in(*texts: str) -> int:
    """Words, which are tokens here: enough to add up, not a tokenizer."""
    return sum(len(text.split()) for text in texts)


def reply(ask: Ask) -> FakeAnswer:
    """What the model says: who it is and what it was asked, JSON of the schema asked for, or a tool call.

    Raises ApiError (400) for a schema that no value can be made for.
    """
    tool = _called_tool(ask)
    if tool:
        arguments = _made({"type": "object", **ask.tools[tool]}, ask)
        return FakeAnswer((), "tool", ask.prompt_tokens, 1 + words_in(json.dumps(arguments)), tool, arguments)
    text = _sentence(ask) if ask.schema is None else json.dumps(_made(ask.schema, ask), ensure_ascii=False)
    words = tuple(_WORD.findall(text))
    kept = words if ask.limit is None else words[: ask.limit]
    return FakeAnswer(kept, "stop" if len(kept) == len(words) else "length", ask.prompt_tokens, len(kept))


def _made(schema: JsonObject, ask: Ask) -> Any:
    try:
        return instance(schema, _echo(ask))
    except NoInstance as error:
        raise ApiError(400, str(error), code="invalid_json_schema") from error


def _sentence(ask: Ask) -> str:
    return f'[{ask.model}] You asked: "{_echo(ask)}". This is where {ask.model} would answer.'


def _echo(ask: Ask) -> str:
    words = ask.question.split()
    return " ".join(words[:_ECHOED_WORDS]) + (" ..." if len(words) > _ECHOED_WORDS else "")


def _called_tool(ask: Ask) -> str:
    """The tool to call: the one the client insists on, else one that the latest user turn names.

    A client that insists on any gets a new one each time: of its tools the last may be how to end.
    """
    if ask.tool_choice in ask.tools:
        return ask.tool_choice
    named = next((name for name in ask.tools if name in ask.question), "")
    if ask.tool_choice == "required" and ask.tools:
        left = [name for name in ask.tools if name not in ask.called] or [*ask.tools]
        return named if named in left else left[0]
    if ask.tool_choice == "none" or not ask.asks:
        return ""
    return named

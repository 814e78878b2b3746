"""OpenAI chat completions as the provider's side speaks them: requests checked, answers made.

Pure: bytes and values in, values out. Shapes are those of the API reference
(``/v1/chat/completions``, objects ``chat.completion`` and ``chat.completion.chunk``) and the
error objects that api.openai.com returns.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

JsonObject = dict[str, Any]

_WORD = re.compile(r"\S+\s*")
_ECHOED_WORDS = 12


class ApiError(Exception):
    """A request that the API refuses: the status and error object that its client gets."""

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
        self.body: JsonObject = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Part(msgspec.Struct, frozen=True):
    """One content part; only text parts have ``text``."""

    type: str
    text: str = ""


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.type == "text")


class Function(msgspec.Struct, frozen=True):
    """The function of an offered tool."""

    name: str


class Tool(msgspec.Struct, frozen=True):
    """One offered tool."""

    function: Function
    type: Literal["function"] = "function"


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatBody(msgspec.Struct, frozen=True):
    """The fields of a request that a fake model honours; others are accepted and ignored."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] = []
    tool_choice: Any = "auto"
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    @property
    def token_limit(self) -> int | None:
        """The most completion tokens the client wants, by either of the API's names."""
        return self.max_completion_tokens or self.max_tokens


class Identity(msgspec.Struct, frozen=True):
    """What an answer says of itself."""

    id: str  # chatcmpl-...
    created: int  # Unix seconds
    model: str

    @property
    def fingerprint(self) -> str:
        """The ``system_fingerprint``: stable for a model, as a real backend's is between deployments."""
        return "fp_" + hashlib.sha256(self.model.encode()).hexdigest()[:10]


class Usage(msgspec.Struct, frozen=True):
    """Tokens, counted as words: enough to add up, not a tokenizer."""

    prompt_tokens: int
    completion_tokens: int

    def to_json(self) -> JsonObject:
        """The ``usage`` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Answer(msgspec.Struct, frozen=True):
    """What the model says: words, or one call of the tool ``tool``."""

    words: tuple[str, ...]  # with the white space that follows each
    finish_reason: Literal["stop", "length", "tool_calls"]
    usage: Usage
    tool: str = ""


def parse(body: bytes) -> ChatBody:
    """The request in ``body``. Raises ApiError (400) as the API does for what it cannot use."""
    try:
        request = msgspec.json.decode(body, type=ChatBody)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"Invalid request: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request. ({error})") from error
    if not request.messages:
        raise ApiError(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    return request


def reply(request: ChatBody) -> Answer:
    """What the model named in ``request`` says: who it is and what it was asked, or a tool call."""
    prompt_tokens = sum(len(message.text.split()) for message in request.messages)
    tool = _called_tool(request)
    if tool:
        return Answer((), "tool_calls", Usage(prompt_tokens, 1), tool)
    words = tuple(_WORD.findall(_sentence(request)))
    kept = words[: request.token_limit] if request.token_limit else words
    finish_reason: Literal["stop", "length"] = "stop" if len(kept) == len(words) else "length"
    return Answer(kept, finish_reason, Usage(prompt_tokens, len(kept)))


def completion(identity: Identity, answer: Answer, *, with_usage: bool = True) -> JsonObject:
    """The ``chat.completion`` object of a plain answer."""
    message: JsonObject = {"role": "assistant", "content": "".join(answer.words) or None, "refusal": None}
    if answer.tool:
        message["tool_calls"] = [_tool_call(identity, answer.tool, arguments="{}")]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    usage = {"usage": answer.usage.to_json()} if with_usage else {}
    return {
        "id": identity.id,
        "object": "chat.completion",
        "created": identity.created,
        "model": identity.model,
        "choices": [choice],
        **usage,
        "system_fingerprint": identity.fingerprint,
    }


def chunks(identity: Identity, answer: Answer, *, with_usage: bool = False) -> Iterator[JsonObject]:
    """The ``chat.completion.chunk`` objects of a streamed answer, in order.

    ``with_usage`` is ``stream_options.include_usage``: a last chunk without choices carries
    the usage, and every chunk before it has ``"usage": null``.
    """
    usage: JsonObject = {"usage": None} if with_usage else {}

    def chunk(choices: list[JsonObject]) -> JsonObject:
        return {
            "id": identity.id,
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": identity.fingerprint,
            "choices": choices,
            **usage,
        }

    for delta in _deltas(identity, answer):
        yield chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])
    yield chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}])
    if with_usage:
        yield chunk([]) | {"usage": answer.usage.to_json()}


def _sentence(request: ChatBody) -> str:
    asked = [message.text for message in request.messages if message.role == "user"]
    words = asked[-1].split() if asked else []
    echo = " ".join(words[:_ECHOED_WORDS]) + (" ..." if len(words) > _ECHOED_WORDS else "")
    return f'[{request.model}] You asked: "{echo}". This is where {request.model} would answer.'


def _called_tool(request: ChatBody) -> str:
    """The tool to call: the one the client insists on, else one that the latest user turn names."""
    names = [tool.function.name for tool in request.tools]
    match request.tool_choice:
        case {"function": {"name": str(name)}} if name in names:
            return name
        case "required" if names:
            return names[0]
        case "none":
            return ""
    latest = request.messages[-1]
    if latest.role != "user":
        return ""  # the tool's result is in: time to answer in words
    return next((name for name in names if name in latest.text), "")


def _tool_call(identity: Identity, name: str, *, arguments: str) -> JsonObject:
    call_id = "call_" + identity.id.removeprefix("chatcmpl-")[:24]
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _deltas(identity: Identity, answer: Answer) -> Iterator[JsonObject]:
    """Role first, then the content or the tool call's name before its arguments."""
    role = {"role": "assistant", "content": None if answer.tool else "", "refusal": None}
    if not answer.tool:
        yield role
        yield from ({"content": word} for word in answer.words)
        return
    yield role | {"tool_calls": [{"index": 0, **_tool_call(identity, answer.tool, arguments="")}]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}

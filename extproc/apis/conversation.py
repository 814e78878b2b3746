"""Which conversation a request is of: what its API, or the operator's proxy, says of that.

Only a hash of it goes further, so records join the turns of a conversation and show nothing of how
its user names it. What names a user (``user``, ``safety_identifier``, Anthropic's
``metadata.user_id``) names no conversation. Nobody is refused for it: what is not text is not there.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import TypeVar

import msgspec
from msgspec import Raw, UnsetType

from extproc.vocabulary import ChatRequest, RequestHead


class _Metadata(msgspec.Struct, gc=False):
    """A client's own notes on a request, and the keys under which frameworks note a conversation."""

    conversation_id: Raw | UnsetType = msgspec.UNSET
    session_id: Raw | UnsetType = msgspec.UNSET


class _Conversation(msgspec.Struct, gc=False):
    """A conversation that the provider keeps; its id alone is the usual spelling."""

    id: Raw | UnsetType = msgspec.UNSET


_T = TypeVar("_T")
_TEXT = msgspec.json.Decoder(str)
_METADATA = msgspec.json.Decoder(_Metadata)
_CONVERSATION = msgspec.json.Decoder(_Conversation)


def conversation_id(request: ChatRequest, head: RequestHead, header: str) -> str:
    """A hash of what the trusted ``header`` says (in lower case; empty: none), else of what the body does.

    32 hexadecimal digits; empty when neither says anything.
    """
    told = (head.headers.get(header, "") if header else "") or request.conversation
    return blake2b(told.encode(), digest_size=16).hexdigest() if told else ""


def of_chat(members: Mapping[str, Raw]) -> str:
    """Of OpenAI's chat completions: ``metadata``'s, else the key of the prompt's cache."""
    return _of_metadata(members) or _text(members.get("prompt_cache_key"))


def of_responses(members: Mapping[str, Raw]) -> str:
    """Of OpenAI's responses: the conversation itself, else what is likely to be one.

    ``previous_response_id`` comes last, because it is another at each turn: it joins only those who
    ask the same thing again.
    """
    return (
        _conversation(members.get("conversation"))
        or _of_metadata(members)
        or _text(members.get("prompt_cache_key"))
        or _text(members.get("previous_response_id"))
    )


def _of_metadata(members: Mapping[str, Raw]) -> str:
    notes = _lenient(_METADATA, members.get("metadata"))
    return "" if notes is None else _text(notes.conversation_id) or _text(notes.session_id)


def _conversation(raw: Raw | None) -> str:
    kept = _lenient(_CONVERSATION, raw)
    return _text(raw) if kept is None else _text(kept.id)


def _text(raw: Raw | UnsetType | None) -> str:
    return _lenient(_TEXT, None if raw is msgspec.UNSET else raw) or ""


def _lenient(decoder: msgspec.json.Decoder[_T], raw: Raw | None) -> _T | None:
    """What ``raw`` holds, or None when it is not what ``decoder`` takes."""
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None

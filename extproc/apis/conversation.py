"""Finds the conversation of a request, in its body or in a header of the operator's proxy.

Only a hash of the id is used, so records join the turns of a conversation without showing the id. Ids of
users (``user``, ``safety_identifier``, Anthropic's ``metadata.user_id``) are not conversations. A value
that is not text is ignored, and never an error.
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
    """A hash of the id in the trusted ``header`` (in lower case; empty: none), else of the id in the body.

    It has 32 hexadecimal digits. It is empty if there is no id.
    """
    found = (head.headers.get(header, "") if header else "") or request.conversation
    return blake2b(found.encode(), digest_size=16).hexdigest() if found else ""


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

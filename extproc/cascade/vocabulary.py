"""The frozen types of a cascade's gates: what was asked, what was answered, and the verdict on it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from extproc.vocabulary import Api

QUESTION_LIMIT: Final = 16_384
"""Characters of a question that gates look at; what comes after is not read."""

ANSWER_LIMIT: Final = 262_144
"""Characters of an answer's texts, of each kind; an answer that has more is not ``complete``."""


class Format(StrEnum):
    """The form that the request asks its answer to have."""

    NONE = "none"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


class Finish(StrEnum):
    """Why a model stopped, in the same words for every API."""

    UNKNOWN = ""  # it did not say, or has not stopped yet
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, as far as its answer can be held against it."""

    api: Api
    text: str = ""  # of the latest user turn; at most QUESTION_LIMIT characters
    format: Format = Format.NONE
    schema: Mapping[str, Any] | None = None  # of Format.JSON_SCHEMA; None: the request gives none that is one
    # Names of the tools offered, with the JSON schema of their arguments. None: they may be any text.
    tools: Mapping[str, Mapping[str, Any] | None] = {}
    max_tokens: int | None = None
    model: str = ""  # as the client named it


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool by the model."""

    name: str
    arguments: str  # JSON text as the model wrote it; may be cut off


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered, or the beginning of it."""

    text: str = ""
    refusal: str = ""  # where the API has a place of its own for it
    finish: Finish = Finish.UNKNOWN
    tool_calls: tuple[ToolCall, ...] = ()
    mean_logprob: float | None = None  # natural logarithm, over the tokens that came with one
    complete: bool = True  # False: more may come, or more came than ANSWER_LIMIT
    failed: bool = False  # the provider reports an error in a 200, or what came is no answer of its API
    status: int = 200  # of the HTTP answer
    output_tokens: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What a gate says of an answer."""

    keep: bool | None  # None: not enough was seen of it
    score: float | None = None  # P(the answer is good) by the calibrated artefact; None: there is none
    gate: str = ""  # the check that rejected; empty: none did
    reason: str = ""  # low cardinality: it labels metrics

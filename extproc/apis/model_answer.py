"""What a model answered, as the frozen types that readers make and gates judge."""

from enum import StrEnum
from typing import Final

import msgspec

ANSWER_LIMIT: Final = 262_144
"""Characters of an answer's texts, of each kind; an answer that has more is not ``complete``."""


class Finish(StrEnum):
    """Why a model stopped, in the same words for every API."""

    UNKNOWN = ""  # it did not say, or has not stopped yet
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool by the model."""

    name: str
    arguments: str  # JSON text as the model wrote it; may be cut off


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
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

"""The frozen types of a cascade's gates: what was asked, what was answered, and the verdict on it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from extproc.vocabulary import Api

QUESTION_LIMIT: Final = 16_384
"""Characters of a question that gates look at; what comes after is not read."""


class Format(StrEnum):
    """The form that the request asks its answer to have."""

    NONE = "none"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


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


class Verdict(msgspec.Struct, frozen=True):
    """What a gate says of an answer."""

    keep: bool | None  # None: not enough was seen of it
    score: float | None = None  # P(the answer is good) by the calibrated artefact; None: there is none
    gate: str = ""  # the check that rejected; empty: none did
    reason: str = ""  # low cardinality: it labels metrics

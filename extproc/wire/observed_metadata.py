"""What Envoy observed of an exchange, as its filters left it in dynamic metadata.

Providers' answers may have put anything there: values of an unexpected type are unknown.
"""

import math
from collections.abc import Mapping

import msgspec
from google.protobuf.struct_pb2 import Struct, Value

from extproc.exchanges import Ruling, SecondAnswer, Usage
from extproc.vocabulary import ModelName

USAGE_NAMESPACE = "router.usage"  # of an answer: token counts, first token, how it ended
REQUEST_NAMESPACE = "router.request"  # of a request: the API that was asked, the path
HOP_NAMESPACE = "router.hop"  # of a hop: whom it asks, for which version of the registry
GATE_NAMESPACE = "router.gate"  # of a hop: the verdict on its answer
HOP_PREFIX = "hop-"  # of the names of internal listeners, before the model's
CHAIN, CASCADE = "chain-", "cascade-"  # of the names of clusters whose endpoints are hops
CHAIN_PREFIXES = (CHAIN, CASCADE)
CONTENT_MARK = "~"  # in names of clusters and hops: what follows identifies the content
TRACEPARENT_TAG = "traceparent"  # of the request, as the provider got it
FIRST_BODY_BYTE_TAG = "first_body_byte"  # microseconds until the provider's first body byte
PLACE_TAG = "place"  # of a hop among those that are asked in turn; see ``place``

# How Envoy is asked for the three in its access logs. Its own time to the first upstream byte is that
# of the head, which may come early.
FIRST_BODY_BYTE = "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%"
TRACEPARENT = "%REQ(TRACEPARENT):128%"
PLACE = "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%"

_ESCALATE, _ACCEPT = "escalate", "accept"
_EXACT = 2**53  # Struct's numbers are doubles: integers beyond this are not themselves
_TEXT_LIMIT = 256  # characters
_DIGITS = 18  # more microseconds are no time that will come
_COUNTS = ("input", "output", "cached", "cache_write", "reasoning")


class Hop(msgspec.Struct, frozen=True):
    """What a hop reports of itself; empty is unknown."""

    model: str  # the registry's public name
    sent: str  # what its provider calls it
    provider: str
    version: str  # of the registry by which the request was decided
    cascade: str = ""  # whose tier it is; empty: a fallback's
    tier: int | None = None
    status: int = 0  # of the provider's answer; 0: there was none


def usage(metadata: Mapping[str, Struct]) -> Usage | None:
    """The usage that the answer reported; None when nothing was seen."""
    if USAGE_NAMESPACE not in metadata:
        return None
    fields = metadata[USAGE_NAMESPACE].fields
    counts = {name: _count(fields[name]) for name in _COUNTS if name in fields}
    return Usage(
        **counts,
        finish=_text(fields, "finish"),
        refusal="refusal" in fields and fields["refusal"].bool_value,
        response_id=_text(fields, "id"),
        response_model=_text(fields, "model"),
        first_token_at=seconds(_text(fields, "first_token")),
    )


def request(metadata: Mapping[str, Struct]) -> tuple[str, str]:
    """The API that was asked and the path under which, without its query; empty when not seen."""
    if REQUEST_NAMESPACE not in metadata:
        return "", ""
    fields = metadata[REQUEST_NAMESPACE].fields
    return _text(fields, "api"), _text(fields, "path", limit=8192)


def hop(metadata: Mapping[str, Struct]) -> Hop | None:
    """The model that a hop called; None if this is not a hop."""
    if HOP_NAMESPACE not in metadata:
        return None
    fields = metadata[HOP_NAMESPACE].fields
    return Hop(
        model=_text(fields, "model"),
        sent=_text(fields, "sent"),
        provider=_text(fields, "provider"),
        version=_text(fields, "version"),
        cascade=_text(fields, "cascade"),
        tier=number_of(_text(fields, "tier")) if "tier" in fields else None,
        status=number_of(_text(fields, "status")),
    )


def ruling(metadata: Mapping[str, Struct]) -> Ruling | None:
    """The verdict of the hop's gate on the answer; None without one."""
    if GATE_NAMESPACE not in metadata:
        return None
    fields = metadata[GATE_NAMESPACE].fields
    return Ruling(
        escalate=_text(fields, "verdict") == _ESCALATE,
        gate=_text(fields, "gate"),
        reason=_text(fields, "reason"),
        score=_score(fields),
        second=_second(fields["second"].struct_value.fields) if "second" in fields else None,
    )


def write_ruling(verdict: Ruling, struct: Struct) -> None:
    """Put what ``ruling`` reads into ``struct``."""
    fields = struct.fields
    fields["gate"].string_value = verdict.gate
    fields["verdict"].string_value = _ESCALATE if verdict.escalate else _ACCEPT
    fields["reason"].string_value = verdict.reason
    if verdict.score is not None:
        fields["score"].number_value = verdict.score
    if verdict.second is not None:
        second = fields["second"].struct_value.fields
        second["model"].string_value = verdict.second.model
        second["outcome"].string_value = verdict.second.outcome
        numbers = {
            "input": verdict.second.input,
            "output": verdict.second.output,
            "score": verdict.second.score,
        }
        for name, number in numbers.items():
            if number is not None:
                second[name].number_value = number


def _second(fields: Mapping[str, Value]) -> SecondAnswer:
    return SecondAnswer(
        model=ModelName(_text(fields, "model")),
        outcome=_text(fields, "outcome"),
        input=_count(fields["input"]) if "input" in fields else None,
        output=_count(fields["output"]) if "output" in fields else None,
        score=_score(fields),
    )


def _score(fields: Mapping[str, Value]) -> float | None:
    score = fields["score"].number_value if "score" in fields else math.nan
    return score if math.isfinite(score) else None


def place(number: int) -> str:
    """The name of an endpoint of a chain, by which its hop knows which attempt it serves; 1 is the first."""
    return str(number)


def number_of(digits: str) -> int:
    """The number of ``digits``, such as a ``place``; 0 for any other text."""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS else 0


def seconds(digits: str) -> float | None:
    """Seconds, from microseconds as ``digits``; None for any other text."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS):
        return None
    return int(digits) / 1e6


def _text(fields: Mapping[str, Value], name: str, limit: int = _TEXT_LIMIT) -> str:
    return fields[name].string_value[:limit] if name in fields else ""


def _count(value: Value) -> int | None:
    number = value.number_value if value.HasField("number_value") else math.nan
    return int(number) if 0 <= number < _EXACT and number.is_integer() else None

"""The small world of telemetry: one exchange, with whatever a test changes in it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from extproc.exchanges import Envelope, Exchange
from extproc.registry.schema import Telemetry
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.sinks import Outcome, outcome_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"

DECIDED = Envelope(
    api="openai.chat",
    route="code",
    model="code",
    upstream_model="qwen3-coder",
    original_model="auto",
    provider="acme",
    stage="embedding",
    reason="matched",
    probability=0.91,
    margin=0.84,
    similarity=0.0,
    version="v1",
    tokens=16,
    stream=True,
    traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01",
    candidates=("code:0.91", "greeting:0.07"),
    predicted_quality=0.87,
    offers=("code:0.87", "large:0.95"),
    began_us=1_795_000_000_251_000,
    parse_us=12,
    rules_us=20,
    queue_us=0,
    embed_us=2400,
    total_us=2600,
)
ANSWERED = Exchange(
    request_id="7f2c",
    started_at=1_795_000_000.25,
    duration=1.5,
    first_byte=0.125,
    status=200,
    flags=(),
    method="POST",
    path="/v1/chat/completions",
    cluster="model-code",
    request_bytes=120,
    response_bytes=4096,
    envelope=DECIDED,
    attempts=1,
)


@pytest.fixture
def exchange() -> Callable[..., Exchange]:
    """Makes an answered exchange; keywords replace fields of it, or of its envelope."""

    def make(**changes: Any) -> Exchange:
        replaced = "envelope" in changes  # then the rest are the exchange's own
        fields = () if replaced else Envelope.__struct_fields__
        of_envelope = {name: changes.pop(name) for name in [*changes] if name in fields}
        envelope = msgspec.structs.replace(DECIDED, **of_envelope)
        return msgspec.structs.replace(ANSWERED, **{"envelope": envelope, **changes})

    return make


@pytest.fixture
def outcome(exchange: Callable[..., Exchange]) -> Callable[..., Outcome]:
    """Makes the outcome of such an exchange; ``prices`` and ``share`` are what the registry says."""

    def make(prices: PriceList | None = None, share: float = 0.0, **changes: Any) -> Outcome:
        listed = prices or PriceList({})
        telemetry = Telemetry(trace_share=share)
        return outcome_of(exchange(**changes), lambda version: listed, lambda version: telemetry)

    return make

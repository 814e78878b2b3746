"""The small world of the store: rows of every kind, segments of them, and an empty store."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.lab.store.record_store import Store, open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.telemetry.rows import AnyRow, AttemptRow, EvaluationRow, ExchangeRow, ShadowRow

NOON = datetime(2026, 11, 25, 12, 0, 0, 250_000, UTC)

FULL = ExchangeRow(
    time=NOON, request_id="r1", trace_id="0af7651916cd43dd8448eb211c80319c", api="openai.chat",
    provider="acme", cache_write_tokens=3, served_by="other",
    model="small", upstream_model="llama-8b", response_model="llama-8b-0711", response_id="chatcmpl-1",
    cluster="model-small", stream=False, status=200, flags=("URX", "DC"), finish_reason="stop", refusal=False,
    duration_ms=1500.125, first_byte_ms=125.0, time_to_first_token_ms=250.5, request_bytes=120,
    response_bytes=0, input_tokens=100, output_tokens=0, cached_tokens=64, reasoning_tokens=7,
    usage_source="answer", cost_usd=1e-05, method="POST", path="/v1/chat/completions", route="code",
    original_model="auto", stage="embedding", reason="matched", rule="it's \\ \"quoted\"",
    probability=0.91, margin=0.1 + 0.2, similarity=-0.25, candidates=("code:0.91", "chat:0.09"),
    predicted_quality=0.87, offers=("small:0.87", "large:0.95"),
    version="v1", mode="observe", would_route="chat", would_model="tiny", would_cost_usd=2.5e-07,
    bypassed=False, refused=False, failed=False, reference_cost_usd=0.02, attempts=2, cascade="cheap",
    tier=1, conversation_id="c1", reask=True, tokens=16, parse_us=12, queue_us=0, embed_us=2400, total_us=2600,
    input_messages='[{"role":"user"}]',
)  # fmt: skip
BARE = ExchangeRow(time=NOON, request_id="r2", bypassed=True, refused=False)
REFUSED = ExchangeRow(
    time=NOON, request_id="r3", api="openai.chat", status=400, error="denied", bypassed=False, refused=True
)
FAILED = ExchangeRow(
    time=NOON,
    request_id="r4",
    api="openai.chat",
    status=503,
    error="UF",
    bypassed=False,
    refused=False,
    failed=True,
)
ATTEMPT = AttemptRow(
    time=NOON, request_id="r1", trace_id=FULL.trace_id, api="openai.chat", model="tiny", attempt=1,
    cascade="cheap", tier=0, verdict="escalate", verdict_reason="refusal", verdict_score=0.2,
    wasted_tokens=30, wasted_cost_usd=0.001, status=200, duration_ms=10.0,
)  # fmt: skip
OPINION = EvaluationRow(
    time=NOON + timedelta(days=2), request_id="r1", trace_id=FULL.trace_id, evaluation_id="e1", name="judge",
    score=0.0, label="bad", explanation="wrong\nanswer", source="gpt", subject="shadow", attempt=3, model="x",
)  # fmt: skip
SHADOW = ShadowRow(
    time=NOON, request_id="r1", trace_id=FULL.trace_id, api="openai.chat", model="large", primary_model="small",
    route="code", status=500, error="500", input_tokens=5, duration_ms=3.0,
)  # fmt: skip
ROWS: tuple[AnyRow, ...] = (FULL, BARE, REFUSED, FAILED, ATTEMPT, OPINION, SHADOW)


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store that vanishes."""
    with open_store(None) as opened:
        prepare(opened)
        yield opened


@pytest.fixture
def segment(tmp_path: Path) -> Callable[[Sequence[AnyRow]], Path]:
    """Writes rows as a segment."""
    count = iter(range(1000))

    def write(rows: Sequence[AnyRow]) -> Path:
        path = tmp_path / f"records-{next(count):04}.jsonl"
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        return path

    return write


@pytest.fixture
def filled(store: Store, segment: Callable[[Sequence[AnyRow]], Path]) -> Store:
    """A store with one row of each kind and more."""
    load(store, segment(ROWS))
    return store


def as_row(found: dict[str, Any], kind: type[AnyRow]) -> AnyRow:
    """What a view told, as the row it is."""
    zoned = found | {"time": found["time"].replace(" ", "T") + "Z"}
    return msgspec.convert(zoned, kind, strict=False)

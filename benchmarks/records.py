"""Deterministic records of a made-up month, as many as wanted: `python benchmarks/records.py DIR --count N`.

Four routes over three models, a cascade, judged and rated, one route rotting in the last days; the
same count gives the same bytes.
"""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from extproc.registry.model_settings import PriceSettings
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import AnyRow, AttemptRow, EvaluationRow, ExchangeRow, ShadowRow
from extproc.vocabulary import ModelName, RouteName, Version

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 30
_PER_SEGMENT = 50_000  # exchanges; about 64 MiB, as `extproc serve` rotates

_PRICES = PriceList(
    {
        ModelName("small"): PriceSettings(input=0.1, output=0.3),
        ModelName("code"): PriceSettings(input=0.5, output=1.5),
        ModelName("large"): PriceSettings(input=3, output=9),
    },
    reference=ModelName("large"),
)
# Route, its model, share of the traffic, share of good answers.
_ROUTES = (
    ("everyday", "small", 0.55, 0.93),
    ("coding", "code", 0.25, 0.91),
    ("reasoning", "large", 0.12, 0.95),
    ("legal", "small", 0.02, 0.94),
    ("", "large", 0.06, 0.9),
)
_ROTTING, _ROTS_FROM, _ROTTEN = "legal", 0.8, 0.55
_MILLISECONDS = {"small": 600.0, "code": 1100.0, "large": 2600.0}


def write(directory: Path, count: int, seed: int = 0) -> list[Path]:
    """Write ``count`` exchanges and what belongs to them as segments; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    encode = msgspec.json.Encoder().encode
    paths = []
    for start in range(0, count, _PER_SEGMENT):
        path = directory / f"records-{BEGIN:%Y%m%d}T{start:09}.000000Z-1.jsonl"
        rows = _rows(random, start, min(count, start + _PER_SEGMENT), count)
        path.write_bytes(b"".join(encode(row) + b"\n" for row in rows))
        paths.append(path)
    return paths


def _rows(random: np.random.Generator, start: int, end: int, count: int) -> Iterator[AnyRow]:
    size = end - start
    route = random.choice(len(_ROUTES), size, p=[share for _, _, share, _ in _ROUTES])
    draws = random.random((size, 8))
    tokens = np.exp(random.normal((5.5, 5.0), 0.8, (size, 2))).astype(int)
    for i in range(size):
        moment = (start + i) / count
        yield from _exchange(start + i, moment, int(route[i]), draws[i].tolist(), tokens[i].tolist())


def _exchange(
    number: int, moment: float, route_number: int, draws: list[float], tokens: list[int]
) -> Iterator[AnyRow]:
    route, model, _, good = _ROUTES[route_number]
    if route == _ROTTING and moment > _ROTS_FROM:
        good = _ROTTEN
    when = BEGIN + timedelta(seconds=round(moment * DAYS * 86_400, 3))
    request = f"{number:08x}-0000-4000-8000-000000000000"
    failed = draws[0] < 0.004
    margin = round(draws[1] * 0.1 if not route else 0.15 + 0.85 * draws[1], 4)
    cascaded = route == "everyday" and draws[3] < 0.3
    attempts = 2 if cascaded and draws[3] < 0.06 else 1
    told = _answer(when, request, number, model, failed, draws, tokens)
    yield _PRICES.of_exchange(
        ExchangeRow(
            **told, model=ModelName(model), route=RouteName(route), original_model="auto",
            method="POST", path="/v1/chat/completions", stage="embedding" if route else "default",
            reason="matched" if route else "low_margin", probability=round((1 + margin) / 2, 4),
            margin=margin, similarity=round(0.3 + 0.7 * draws[5], 4),
            candidates=(f"{route or 'coding'}:{(1 + margin) / 2:.3f}", f"reasoning:{(1 - margin) / 2:.3f}"),
            version=Version("b690ce5f60d6"), mode="active", bypassed=False, refused=False, failed=failed,
            attempts=attempts, cascade="thrifty" if cascaded else "", conversation_id=f"c{number // 4:08x}",
            reask=draws[2] < 0.05 if number % 4 else None, tokens=24, parse_us=40, queue_us=0,
            embed_us=2400, total_us=2600,
        )
    )  # fmt: skip
    for attempt in range(1, attempts + 1 if cascaded else 1):
        last = attempt == attempts
        row = AttemptRow(
            **told, model=ModelName(model), attempt=attempt, cascade="thrifty", tier=attempt - 1,
            verdict="accept" if last else "escalate", verdict_reason="" if last else "too_short",
            verdict_score=round(draws[6], 3),
        )  # fmt: skip
        yield _PRICES.of_attempt(row)
    if draws[6] < 0.01:
        yield _PRICES.of_shadow(
            ShadowRow(
                **told, model=ModelName("large"), route=RouteName(route), primary_model=ModelName(model)
            )
        )
    for name, share, source in (("feedback", 0.03, "user"), ("judge", 0.1, "judge-model")):
        if draws[7] < share:
            yield EvaluationRow(
                time=when + timedelta(hours=3), request_id=request, evaluation_id=f"{name}-{number}",
                name=name, score=float((draws[2] * 7919) % 1 < good), source=source,
            )  # fmt: skip


def _answer(
    when: datetime, request: str, number: int, model: str, failed: bool, draws: list[float], tokens: list[int]
) -> dict[str, Any]:
    """The fields that every kind of answer has."""
    duration = round(_MILLISECONDS[model] * (0.4 + 2.4 * draws[2] ** 3), 3)
    answer: dict[str, Any] = {
        "time": when, "request_id": request, "trace_id": f"{number + 1:032x}", "api": "openai.chat",
        "upstream_model": f"{model}-2026", "response_model": f"{model}-2026-07", "cluster": f"model-{model}",
        "stream": draws[4] < 0.5, "status": 503 if failed else 200, "error": "UF" if failed else "",
        "flags": ("UF",) if failed else (), "duration_ms": duration, "first_byte_ms": round(duration / 5, 3),
        "request_bytes": 600, "response_bytes": 4 * tokens[1],
    }  # fmt: skip
    usage = {
        "input_tokens": tokens[0], "output_tokens": tokens[1], "usage_source": "answer",
        "finish_reason": "stop", "refusal": draws[5] < 0.01, "time_to_first_token_ms": round(duration / 4, 3),
    }  # fmt: skip
    return answer if failed else answer | usage


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000, help="exchanges (default: %(default)s)")
    options = parser.parse_args()
    paths = write(options.directory, options.count)
    print(f"{len(paths)} segments, {sum(path.stat().st_size for path in paths) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

"""Every metric with its labels, as the page of a sidecar shows them once each has been counted.

The reference page and the test of the dashboard read it.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client.parser import text_string_to_metric_families

from extproc.exchanges import Attempt, Envelope, Exchange, Ruling, Usage
from extproc.registry.cascade_settings import Band
from extproc.registry.live_registry import Result
from extproc.registry.model_settings import Model, PriceSettings
from extproc.registry.schema import Registry, Telemetry
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.row_building import attempt_row_of
from extproc.telemetry.sinks import Outcome, outcome_of
from extproc.vocabulary import (
    BodyPolicy,
    ClusterName,
    Decision,
    FastPathComparison,
    LlmOpinion,
    LlmResult,
    ModelName,
    Offer,
    Reason,
    RouteName,
    Stage,
    StageTimes,
    UpstreamName,
    Version,
)

_ROUTE, _MODEL, _SENT = RouteName("r"), ModelName("m"), UpstreamName("u")
_PRICES = PriceList({_MODEL: PriceSettings(input=1.0, output=1.0)}, reference=_MODEL)
_REGISTRY = Registry(models={"m": Model(base_url="http://127.0.0.1:1")}, default="m")
_ANSWERED = Envelope(
    api="openai.chat", route=_ROUTE, model=_MODEL, upstream_model=_SENT, parse_us=1, total_us=1
)
_USAGE = Usage(input=1, output=2, first_token_at=1.5)


class _Recorder:
    """A meter that keeps what instruments are created."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, str, str]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kind = name.removeprefix("create_").removeprefix("observable_")

        def create(name: str, *given: Any, unit: str = "", description: str = "", **_: object) -> Any:
            texts = [text for text in given if isinstance(text, str)]
            if texts:  # given by place: unit, description
                unit, description = texts[0], texts[-1]
            self.made.append((name, kind, unit, description))
            return _Ignored()

        return create


class _Ignored:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def instruments() -> list[tuple[str, str, str, str]]:
    """Name, kind, unit and description of every instrument of the sidecar."""
    recorder = _Recorder()
    with patch.object(MeterProvider, "get_meter", lambda *_: recorder):
        metrics = Metrics()
        for name in dir(metrics):  # those that show a state are created when it is known where that is
            if name.startswith("watch_"):
                watch = getattr(metrics, name)
                needed = watch.__code__.co_varnames[1 : _parameters(watch) + 1]
                watch(**dict.fromkeys(needed, lambda: 0))
    metrics.close()
    return sorted(recorder.made)


def _parameters(method: Any) -> int:
    code = method.__code__
    return int(code.co_argcount + code.co_kwonlyargcount - 1)


def prometheus_name(name: str, kind: str, unit: str) -> str:
    """The name of an instrument on the Prometheus page."""
    base = name.replace(".", "_") + ("_seconds" if unit == "s" else "")
    return f"{base}_total" if kind == "counter" else base


def labels_by_metric() -> Mapping[str, set[str]]:
    """The names of all series of the page, each with its labels."""
    metrics = Metrics()
    _watch(metrics)
    _count(metrics)
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    metrics.close()
    return found


def _watch(metrics: Metrics) -> None:
    metrics.watch_encoder(model="m", device="cpu", precision="int8", waiting=lambda: 0)
    metrics.watch_registry(lambda: "v1")
    metrics.watch_admission(lambda: 0, lambda: 0)
    metrics.watch_dropped({"records": lambda: 0})
    metrics.watch_deleted(lambda: 0)
    metrics.watch_fast_path(lambda: True)


def _count(metrics: Metrics) -> None:
    metrics.failed("decide")
    metrics.restarted("embedding queue", 0)
    metrics.reloaded(Result.LOADED)
    metrics.feedback_received("accepted")
    metrics.accept(_outcome(_exchange(usage=_USAGE)))
    metrics.accept(_outcome(_exchange(status=500)))
    metrics.accept(_outcome(_exchange(envelope=Envelope(error="denied"), status=400)))
    metrics.accept(_outcome(_exchange(envelope=Envelope(safety="redact"))))
    _count_cascade(metrics)
    metrics.decided(_decision())


def _count_cascade(metrics: Metrics) -> None:
    """A request whose first answer cost something and was refused, and the band of its gate."""
    ruling = Ruling(escalate=True, gate="g", reason="refusal/refusal_text")
    tried = Attempt(_exchange(envelope=None, usage=_USAGE), 1, _MODEL, cascade="c", tier=0, ruling=ruling)
    metrics.attempted(_PRICES.of_attempt(attempt_row_of(tried)), None)
    metrics.expect(_REGISTRY, {("c", 0): Band(least=0.1, most=0.3)})
    metrics.accept(_outcome(_exchange(usage=_USAGE, tried=(tried,), attempts=3)))


def _decision() -> Decision:
    return Decision(
        _ROUTE, _MODEL, BodyPolicy(model=_SENT), ClusterName("c"), Stage.EMBEDDING, Reason.MATCHED,
        Version("v1"),
        probability=0.9, margin=0.8, similarity=0.7, in_scope=0.9,
        times=StageTimes(rules=1, queue=1, embed=1, score=1, llm=1, total=1),
        opinion=LlmOpinion(result=LlmResult.MATCHED, model=_MODEL),
        offers=(Offer(_MODEL, 0.9, 0.1),), training_similarity=0.5,
        comparison=FastPathComparison(agreed=True, weight=20.0),
    )  # fmt: skip


def _exchange(**fields: object) -> Exchange:
    known = {
        "request_id": "r", "started_at": 1.0, "duration": 1.0, "first_byte": 0.1, "status": 200, "flags": (),
        "method": "POST", "path": "/v1/chat/completions", "cluster": "c", "request_bytes": 1,
        "response_bytes": 1, "envelope": _ANSWERED,
    }  # fmt: skip
    return Exchange(**(known | fields))  # type: ignore[arg-type]


def _outcome(exchange: Exchange) -> Outcome:
    return outcome_of(exchange, lambda version: _PRICES, lambda version: Telemetry())

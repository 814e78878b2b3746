"""Metrics: OpenTelemetry instruments behind one class, rendered as a Prometheus page.

If the standard ``OTEL_*`` variables name a collector, a thread of its own sends the metrics there too.
A slow or absent collector delays no request.

Cardinality is bounded: labels are names from the registry, values of our enums, labels of our
errors and Envoy's flags, never a string that a client sent. As a last resort the SDK folds what
an instrument counts beyond 2000 label sets into one overflow series.

A label of an enum is its ``value``: the SDK keeps an enum member and the equal string as two series, and
the page would show both under one name.

One call of an instrument costs about 5 us, so a decision by a rule pays 15 us here and one by
the encoder 40 us, beside milliseconds of inference.
"""

import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from extproc import __version__
from extproc.registry.live_registry import Result
from extproc.registry.schema import Registry
from extproc.registry.tier_compiling import Bands
from extproc.telemetry import initial_series, otel_names
from extproc.telemetry.call_metrics import Calls
from extproc.telemetry.cascade_metrics import Cascades
from extproc.telemetry.initial_series import Counters, llm_labels
from extproc.telemetry.otlp import service_resource
from extproc.telemetry.rows import AttemptRow, EvaluationRow
from extproc.telemetry.sinks import Outcome
from extproc.vocabulary import Decision, Mode, Reason, Stage

_Labels = Mapping[str, str | bool]

# Seconds. A rule takes some 10 us, an embedding milliseconds, a whole budget a second at most.
_STEP_BUCKETS: Final = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3),
    *(5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_SCORE_BUCKETS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
_STEPS: Final = tuple(
    (step, {otel_names.ROUTER_STEP: step}) for step in ("rules", "queue", "embed", "score", "llm", "total")
)
_PARSE: Final = {otel_names.ROUTER_STEP: "parse"}


class Metrics:
    """Every instrument of the sidecar. Safe to call from any thread; nothing here raises or waits."""

    def __init__(self, pushing: MetricReader | None = None) -> None:
        """``pushing`` also sends the metrics to a collector, until ``close``; see ``otlp.metric_reader``."""
        # A registry of its own, so that nothing else in the process shows up on our page.
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = [
            PrometheusMetricReader(registry=self._registry, scope_info_enabled=False)
        ]
        if pushing is not None:
            readers.append(pushing)
        self._provider = MeterProvider(
            metric_readers=readers, resource=service_resource(), shutdown_on_exit=False
        )
        self._render_lock = threading.Lock()
        # CPU, memory and open files, by the names that every Prometheus client uses.
        ProcessCollector(registry=self._registry)
        self._meter = self._provider.get_meter("extproc", __version__)
        self._counters = Counters(self._meter)
        self._create_decision_instruments()
        self._calls = Calls(self._meter, self._counters)
        self._cascades = Cascades(self._meter, self._counters)
        self._gauge(
            otel_names.BUILD_INFO,
            "Always 1; the labels identify the running build.",
            lambda: [(1, {otel_names.VERSION: __version__, otel_names.PYTHON: platform.python_version()})],
        )

    def expect(self, registry: Registry, bands: Bands = MappingProxyType({})) -> None:
        """Start each series that this registry can produce at 0; existing series keep their value.

        ``bands`` is the escalation that the registry expects of its gates.
        """
        self._counters.begin(initial_series.always())
        self._counters.begin(initial_series.of(registry))
        self._cascades.expect(bands)

    def decided(self, decision: Decision) -> None:
        """Count one decision, its scores if it has any, and the time of each step that ran."""
        self._decisions.add(
            1,
            {
                otel_names.ROUTER_ROUTE: decision.route,
                otel_names.ROUTER_MODEL: decision.model,
                otel_names.ROUTER_STAGE: decision.stage.value,
                otel_names.ROUTER_REASON: decision.reason.value,
                otel_names.ROUTER_MODE: decision.mode.value,
            },
        )
        if decision.comparison is not None:
            self._comparisons.add(1, {otel_names.RESULT: decision.comparison.result})
        if decision.opinion is not None:
            self._doubts.add(1, llm_labels(decision.opinion))
        for step, labels in _STEPS:
            microseconds = getattr(decision.times, step)
            if microseconds is not None:
                self._steps.record(microseconds / 1e6, labels)
        route = {otel_names.ROUTER_ROUTE: decision.route}
        for histogram, score in (
            (self._probability, decision.probability),
            (self._margin, decision.margin),
            (self._similarity, decision.similarity),
            (self._training_similarity, decision.training_similarity),
            (self._in_scope, decision.in_scope),
        ):
            if score is not None:
                # OpenTelemetry's histograms refuse what is below 0; a cosine there is as good as 0.
                histogram.record(max(0.0, score), route)
        if decision.predicted_quality is not None:
            self._quality.record(
                decision.predicted_quality, {**route, otel_names.ROUTER_MODEL: decision.model}
            )

    def undecided(self, reason: Reason, mode: Mode = Mode.ACTIVE) -> None:
        """Count one request that was left to Envoy's default, under a registry of this mode."""
        self._decisions.add(
            1,
            {
                otel_names.ROUTER_ROUTE: "",
                otel_names.ROUTER_MODEL: "",
                otel_names.ROUTER_STAGE: Stage.DEFAULT.value,
                otel_names.ROUTER_REASON: reason.value,
                otel_names.ROUTER_MODE: mode.value,
            },
        )

    def unread(self) -> None:
        """Count one LLM call whose body was not read, because the bytes in flight were at their limit."""
        self._unread.add(1)

    def reloaded(self, result: Result) -> None:
        """Count one reload of the registry by its result."""
        self._reloads.add(1, {otel_names.RESULT: result.value})

    def feedback_received(self, result: str) -> None:
        """Count one request with feedback: ``accepted``, or the label of the error."""
        self._feedback.add(1, {otel_names.RESULT: result})

    def failed(self, where: str) -> None:
        """Count one failure caused by a defect in the sidecar or in Envoy's configuration."""
        self._failures.add(1, {otel_names.ERROR_TYPE: where})

    def restarted(self, task: str, times: int) -> None:
        """Count restarts of a task that had died; ``times`` 0 starts the series."""
        self._restarts.add(times, {otel_names.ROUTER_TASK: task})

    def accept(self, outcome: Outcome) -> None:
        """Count one finished exchange: the ``OutcomeSink`` of metrics."""
        row = outcome.row
        if row.parse_us is not None:  # no decision knows it: it ends before there is a question
            self._steps.record(row.parse_us / 1e6, _PARSE)
        self._calls.accept(row)
        self._cascades.accept(row)

    def attempted(self, row: AttemptRow, verdict: EvaluationRow | None) -> None:
        """Count one call of a model by a hop; the row has the verdict too."""
        self._calls.attempted(row)
        self._cascades.attempted(row)

    def watch_encoder(self, *, model: str, device: str, precision: str, waiting: Callable[[], int]) -> None:
        """Show which encoder runs where, and how many requests wait for it. Call once."""
        labels = {otel_names.MODEL: model, otel_names.DEVICE: device, otel_names.PRECISION: precision}
        self._gauge(
            otel_names.ENCODER_INFO,
            "Always 1; the labels identify the encoder.",
            lambda: [(1, labels)],
        )
        self._gauge(otel_names.ENCODER_QUEUE, "Requests waiting for the encoder.", lambda: [(waiting(), {})])

    def watch_admission(self, bytes_in_flight: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Show how many bytes of bodies are being read, and how many bodies wait. Call once."""
        self._gauge(
            otel_names.BODY_BYTES_IN_FLIGHT,
            "Bytes of request bodies being read.",
            lambda: [(bytes_in_flight(), {})],
        )
        self._gauge(
            otel_names.BODIES_WAITING, "Request bodies waiting to be read.", lambda: [(waiting(), {})]
        )

    def watch_registry(self, version: Callable[[], str]) -> None:
        """Show which version of the registry decides. Call once; ``version`` may change its answer."""
        self._gauge(
            otel_names.REGISTRY_INFO,
            "Always 1; the label is the version of the registry that decides.",
            lambda: [(1, {otel_names.VERSION: version()})],
        )

    def watch_fast_path(self, opened: Callable[[], bool | None]) -> None:
        """Show whether the lexical fast path decides; None where the registry has none. Call once."""

        def observe() -> Iterable[tuple[int, _Labels]]:
            found = opened()
            return [] if found is None else [(int(found), {})]

        self._gauge(
            otel_names.FAST_PATH_OPEN,
            "1 while the lexical fast path decides, 0 after it ended.",
            observe,
        )

    def watch_dropped(self, sinks: Mapping[str, Callable[[], int]]) -> None:
        """Show how much each telemetry sink has lost so far, by its name. Call once."""
        self._meter.create_observable_counter(
            otel_names.TELEMETRY_DROPPED,
            [_observing(lambda: [(lost(), {otel_names.ROUTER_SINK: sink}) for sink, lost in sinks.items()])],
            description="Records and spans lost to a full queue, a full disk or an unreachable collector.",
        )

    def watch_deleted(self, segments: Callable[[], int]) -> None:
        """Show how many whole segments were deleted so far to make room. Call once."""
        self._meter.create_observable_counter(
            otel_names.SEGMENTS_DELETED,
            [_observing(lambda: [(segments(), {})])],
            description="Record segments deleted to keep their directory within its limits.",
        )

    def render(self) -> bytes:
        """The page, in Prometheus' text format 0.0.4."""
        # The exporter hands what it collected from one call to the next through a shared queue:
        # of two scrapes at once, one would take the other's page.
        with self._render_lock:
            return generate_latest(self._registry)

    def close(self, timeout_s: float = 2.0) -> None:
        """Push what was counted last, and stop; a collector that takes longer is given up."""
        self._provider.shutdown(timeout_s * 1e3)

    def _create_decision_instruments(self) -> None:
        count = self._counters.create
        self._decisions = count(otel_names.DECISIONS, description="Decisions, by target and reason.")
        self._comparisons = count(
            otel_names.FAST_PATH_COMPARISONS,
            description="Sampled requests of the lexical fast path, by whether the encoder agreed.",
        )
        self._failures = count(
            otel_names.FAILURES,
            description="Failures caused by a defect here or in Envoy's configuration; see the log.",
        )
        self._unread = count(
            otel_names.BODIES_UNREAD,
            description="LLM calls whose body was not read because the bytes in flight were at their limit.",
        )
        self._unread.add(0)
        self._doubts = count(
            otel_names.LLM_REQUESTS,
            description="Requests in doubt, by how the question to an LLM ended; see `llm` of the registry.",
        )
        self._restarts = count(
            otel_names.TASK_RESTARTS,
            description="Restarts of crashed tasks of this process; see the log.",
        )
        self._feedback = count(otel_names.FEEDBACK, description="Requests with feedback, by result.")
        self._reloads = count(otel_names.REGISTRY_RELOADS, description="Reloads of the registry, by result.")
        self._steps = self._histogram(
            otel_names.STEP_DURATION, "Time of each step of a decision.", _STEP_BUCKETS, unit="s"
        )
        self._probability = self._histogram(
            otel_names.DECISION_PROBABILITY,
            "Calibrated probability of the most probable route.",
            _SCORE_BUCKETS,
        )
        self._margin = self._histogram(
            otel_names.DECISION_MARGIN,
            "Probability of the best route minus that of the second.",
            _SCORE_BUCKETS,
        )
        self._similarity = self._histogram(
            otel_names.DECISION_SIMILARITY, "Cosine similarity to the nearest example.", _SCORE_BUCKETS
        )
        self._training_similarity = self._histogram(
            otel_names.DECISION_TRAINING_SIMILARITY,
            "Cosine similarity to the nearest prompt that predicted quality was trained on.",
            _SCORE_BUCKETS,
        )
        self._in_scope = self._histogram(
            otel_names.DECISION_IN_SCOPE, "Probability that the text belongs to any route.", _SCORE_BUCKETS
        )
        self._quality = self._histogram(
            otel_names.DECISION_QUALITY,
            "Predicted probability that the chosen model's answer is good.",
            _SCORE_BUCKETS,
        )

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], unit: str = ""
    ) -> Histogram:
        return self._meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=buckets
        )

    def _gauge(
        self, name: str, description: str, observe: Callable[[], Iterable[tuple[int, _Labels]]]
    ) -> None:
        self._meter.create_observable_gauge(name, [_observing(observe)], description=description)


def _observing(
    observe: Callable[[], Iterable[tuple[int, _Labels]]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, labels) for value, labels in observe()]

    return callback

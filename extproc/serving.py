"""`extproc serve`: the whole program, in the order it happens."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec

from extproc.egress.llm_router import LlmRouter
from extproc.egress.model_calls import Egress
from extproc.embedding.batching import BatchingEmbedder
from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_session import open_encoder
from extproc.embedding.release_compiling import Compiler
from extproc.errors import DecisionError, OperatorError
from extproc.health import Components
from extproc.offloading import Offload
from extproc.registry.checks.shared_checks import plaintext_problem
from extproc.registry.feedback_token import FeedbackToken
from extproc.registry.live_registry import LiveRegistry, State
from extproc.registry.releases import Release
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.routing.pipeline import MoreTime, Pipeline
from extproc.supervisor import COMPONENT as TASKS
from extproc.supervisor import Supervisor
from extproc.telemetry import logs, otlp
from extproc.telemetry.admin_server import AdminServer
from extproc.telemetry.feedback_receiver import FeedbackReceiver, Keep
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.record_writer import open_records
from extproc.telemetry.segments import limits_of
from extproc.telemetry.sinks import Fanout, OutcomeSink
from extproc.telemetry.span_export import sink_from_environment
from extproc.vocabulary import Decision, Question, Terms, Version
from extproc.wire.access_log_service import AccessLog
from extproc.wire.body_admission import Admission, AdmissionLimits
from extproc.wire.decide_stream import DecideConversation
from extproc.wire.ext_proc_service import ExternalProcessor, FeedbackConversation
from extproc.wire.gate_stream import GateConversation, Gatekeepers
from extproc.wire.grpc_server import COMPONENT as GRPC
from extproc.wire.grpc_server import Options, Server
from extproc.wire.socket_files import access_of

log = logging.getLogger(__name__)

# Characters of a prompt, if the operator opted in. They travel in Envoy's memory and on every record.
_PROMPT_CHARS = 4096


class Settings(msgspec.Struct, frozen=True):
    """The command line's settings. All others are in the registry."""

    registry: Path
    encoder_dir: Path | None = None  # None: where `extproc model fetch` puts it by default
    listen: str | None = None  # None: the registry's envoy.sidecar, if that is one
    admin: str = "127.0.0.1:9902"
    records: str = "-"  # a directory of segments; -: standard output
    records_mib: int = 4096  # what that directory may hold
    log_level: str = "info"


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises ``OperatorError`` when it cannot start."""
    logs.configure(settings.log_level)
    stop = _stop_on_signals()
    live = LiveRegistry(settings.registry, time.monotonic)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, live.reload)
    registry = live.first.registry  # what is taken from it here applies until the next start
    listen = settings.listen or _only(many(registry.envoy.sidecar))
    if problem := plaintext_problem(listen, registry.envoy.sidecar_plaintext):
        raise OperatorError(f"--listen: {problem}")
    async with AsyncExitStack() as closing:
        # The admin page first: liveness holds while the encoder loads, readiness does not yet.
        metrics, health = Metrics(otlp.metric_reader()), Components("registry", "encoder", GRPC, TASKS)
        closing.callback(metrics.close)
        metrics.expect(registry)  # before the first scrape, so that it sees each counter at 0
        host, port = _host_and_port(settings.admin)
        admin = AdminServer(
            host, port, metrics=metrics.render, health=health, registry_version=lambda: live.version
        )
        closing.callback(admin.close)
        supervisor = Supervisor(health, count_restarts=metrics.restarted, give_up=stop.set)
        closing.push_async_callback(supervisor.close)

        token = FeedbackToken(os.environ)
        files = locate(settings.encoder_dir, registry.encoder.model)
        encoder = await asyncio.to_thread(open_encoder, files, registry.encoder)
        compiler = Compiler(encoder, files.directory)

        def newest_changed(release: Release) -> None:
            token.use(release.feedback, release.directory)
            metrics.expect(release.registry, release.bands)

        releases = await live.begin(compiler.compiled, newest_changed)
        health.report("registry", ready=True, detail=f"version {live.version}")
        health.report("encoder", ready=True, detail=f"{encoder.name} on {encoder.device}")

        embedder = BatchingEmbedder(encoder, registry.encoder.queue)
        supervisor.start("embedding queue", embedder.run)
        closing.push_async_callback(embedder.close)
        metrics.watch_encoder(
            model=encoder.name, device=encoder.device, precision=encoder.precision,
            waiting=lambda: embedder.depth,
        )  # fmt: skip
        metrics.watch_registry(lambda: live.version)
        metrics.watch_fast_path(lambda: releases.newest.snapshot.fast_path_open)

        # From here on the registry may change. Envoy names for each request the version that routes it.
        def changed(state: State) -> None:
            health.report("registry", ready=True, detail=str(state))
            token.read()  # its file is not part of the registry's version

        supervisor.start("registry", partial(live.follow, changed, count=metrics.reloaded))

        sinks, keep = _sinks(settings, registry, metrics, closing)
        fanout = Fanout(
            sinks,
            prices=lambda version: PriceList.of_release(releases.recorded(version)),
            telemetry=lambda version: releases.recorded(version).telemetry,
        )
        offload = Offload()
        egress = Egress(registry.envoy.egress, time.monotonic)
        pipeline = Pipeline(
            embedder, releases.snapshot, time.perf_counter, offload, LlmRouter(egress, time.monotonic)
        )
        admission = Admission(_limits(registry), metrics.unread)
        metrics.watch_admission(lambda: admission.bytes_in_flight, lambda: admission.waiting)
        server = Server(
            Options(
                address=listen,
                max_body_bytes=registry.envoy.max_body_bytes,
                access=access_of(registry.envoy.socket_group),
            ),
            ExternalProcessor(
                DecideConversation(
                    _Metered(pipeline, metrics, releases.terms),
                    releases,
                    admission,
                    metrics.failed,
                    offload=offload,
                    prompt_chars=_PROMPT_CHARS if otlp.captures_text() else 0,
                ),
                GateConversation(Gatekeepers(releases.tiers), metrics.failed, egress),
                FeedbackConversation(
                    FeedbackReceiver(token.admit, keep, metrics.feedback_received), metrics.failed
                ),
                count_failure=metrics.failed,
            ),
            AccessLog(fanout, count_failure=metrics.failed),
            health,
            versions=lambda: releases.versions,
            refused=lambda: live.refused,
        )
        await server.start()
        supervisor.start("health", server.show_health)
        await server.run(stop)
    supervisor.check()


class _Metered:
    """The pipeline, with every decision counted."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, terms: Callable[[Version], Terms]) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._terms = terms

    async def decide(self, question: Question, more_time: MoreTime | None = None) -> Decision:
        """See ``Pipeline.decide``."""
        try:
            decision = await self._pipeline.decide(question, more_time)
        except DecisionError as error:
            self._metrics.undecided(error.reason, self._terms(question.head.config_version).mode)
            raise
        self._metrics.decided(decision)
        return decision


def _limits(registry: Registry) -> AdmissionLimits:
    return AdmissionLimits(
        bytes_in_flight=registry.envoy.max_bytes_in_flight,
        largest_body=registry.envoy.max_body_bytes,
        wait_s=registry.transfer_s,
    )


def _sinks(
    settings: Settings, registry: Registry, metrics: Metrics, closing: AsyncExitStack
) -> tuple[list[OutcomeSink], list[Keep]]:
    """Where outcomes and feedback go. Each is closed, and so flushed, after the server has drained."""
    records = open_records(settings.records, limits_of(settings.records_mib))
    closing.callback(records.close)
    sinks: list[OutcomeSink] = [metrics, records]
    keep: list[Keep] = [records.write]
    lost = {"records": lambda: records.dropped}
    spans = sink_from_environment(registry.encoder.model)
    if spans is not None:
        closing.callback(spans.close)
        sinks.append(spans)
        keep.append(spans.evaluated)
        lost["spans"] = lambda: spans.dropped
    metrics.watch_dropped(lost)
    metrics.watch_deleted(lambda: records.deleted)
    return sinks, keep


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.log_uncaught_in_loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _only(sidecars: list[str]) -> str:
    if len(sidecars) > 1:
        raise OperatorError(
            f"envoy.sidecar names {len(sidecars)} processes; choose the address of this one with --listen"
        )
    return sidecars[0]


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise OperatorError(f"--admin: {address!r} is not a valid address (expected HOST:PORT)")
    return host.strip("[]"), int(port)

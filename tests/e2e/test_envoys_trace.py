"""Where Envoy traces too, the exchange is below Envoy's own span, and never below one that nobody keeps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.envoyconf import bootstrap, envoy_process
from extproc.registry.registry_loading import load
from tests.collector import Collector
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

CODE = "implement quicksort in python"


def tracing(tree: Any, port: int, percent: float) -> None:
    """Add a tracer to a generated configuration: what an operator who has one would add."""
    (listener,) = [each for each in tree["static_resources"]["listeners"] if "internal_listener" not in each]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["tracing"] = {
        "random_sampling": {"value": percent},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "envoy",
                "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}},
            },
        },
    }
    address = {"socket_address": {"address": HOST, "port_value": port}}
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    protocol = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    tree["static_resources"]["clusters"].append(
        {
            "name": "collector",
            "load_assignment": {
                "cluster_name": "collector",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": protocol, **http2}
            },
        }
    )


@asynccontextmanager
async def traced_by_envoy(folder: Path, percent: float) -> AsyncIterator[tuple[World, str, Collector]]:
    """A world whose second Envoy, at the URL told, traces this share of its requests."""
    collector = Collector()
    environment = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async for world in world_in(folder, environment):
        listen, admin = free(2)
        loaded = load(world.stack.registry)
        addresses = msgspec.structs.replace(
            loaded.registry.envoy,
            listen=f"{HOST}:{listen}",
            admin=f"{HOST}:{admin}",
            sidecar=world.stack.addresses.sidecars[0],
        )
        tree = bootstrap.build(msgspec.structs.replace(loaded.registry, envoy=addresses), folder)
        tracing(tree, int(collector.endpoint.rpartition(":")[2]), percent)
        config = folder / "traced.yaml"
        config.write_text(yaml.safe_dump(tree))
        command = [str(envoy_process.find()), "-c", str(config), "--disable-hot-restart"]
        envoy = await Process.start("traced", command, log=folder / "traced.log")
        try:
            await envoy.ready(f"http://{HOST}:{admin}/ready", timeout_s=30.0)
            yield world, f"http://{HOST}:{listen}", collector
        finally:
            await envoy.stop()
    collector.stop()


async def ask(world: World, url: str) -> str:
    """The trace of one exchange through the Envoy at ``url``, as its record tells."""
    async with world.http.post(f"{url}/v1/chat/completions", json=chat(CODE)) as answer:
        assert answer.status == 200
        (record,) = await world.records([answer.headers["x-request-id"]])
    assert record["route"] == "code"
    trace_id: str = record["trace_id"]
    return trace_id


async def spans_of(collector: Collector, trace_id: str, wanted: set[str]) -> list[Span]:
    async with asyncio.timeout(60):
        while True:
            spans = [span for span in collector.spans if span.trace_id.hex() == trace_id]
            if wanted <= {span.name for span in spans}:
                return spans
            await asyncio.sleep(0.05)


async def test_the_exchange_is_below_envoys_own_span_and_the_trace_has_one_root(tmp_path: Path) -> None:
    async with traced_by_envoy(tmp_path, 100.0) as (world, url, collector):
        spans = await spans_of(collector, await ask(world, url), {"route", "chat demo-code-32b", "ingress"})
        ids = {span.span_id for span in spans}
        assert [span.name for span in spans if span.parent_span_id not in ids] == ["ingress"]
        (route,) = [span for span in spans if span.name == "route"]
        assert route.parent_span_id
        assert not route.links


async def test_where_envoy_does_not_sample_the_exchange_is_a_root_with_a_link(tmp_path: Path) -> None:
    async with traced_by_envoy(tmp_path, 0.0) as (world, url, collector):
        spans = await spans_of(collector, await ask(world, url), {"route", "chat demo-code-32b"})
        (root,) = [span for span in spans if not span.parent_span_id]
        assert root.name == "route"
        assert len(root.links) == 1
        assert {span.parent_span_id for span in spans} == {b"", root.span_id}

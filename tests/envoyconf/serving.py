"""A world whose registry a test writes itself, and providers that speak TLS.

``conftest.launch`` has the world that most tests want; here each upstream can be what a test needs.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import trustme
import yaml
from msgspec.structs import replace

from extproc.demo.child_processes import Process
from extproc.demo.loopback_ports import HOST, free
from extproc.envoyconf import bootstrap, envoy_process
from extproc.registry.schema import Registry
from tests.envoyconf.conftest import (
    DEADLINE_S,
    DECISION_MS,
    Build,
    Provider,
    Sidecar,
    World,
    decided,
    envoy_on,
)

BOTH = ("h2", "http/1.1")
# A request that is good in every API.
EVERY = (
    b'{"model":"auto","max_tokens":9,"input":"hi","prompt":"hi","messages":[{"role":"user","content":"hi"}]}'
)


@asynccontextmanager
async def running(*names: str) -> AsyncIterator[Mapping[str, Provider]]:
    """Providers of these names."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Provider(name).running()) for name in names}


@asynccontextmanager
async def serving(
    directory: Path,
    registry: Registry,
    providers: Mapping[str, Provider],
    *,
    model: str = "",
    sidecar_alive: bool = True,
    build: Build = bootstrap.build,
) -> AsyncIterator[World]:
    """Envoy on ``registry``, whose files are in ``directory``, and a sidecar that decides for ``model``."""
    sidecar = Sidecar(f"unix:{directory}/s")
    sidecar.decision = decided(model or next(iter(registry.models)))
    here = replace(registry.envoy, listen="127.0.0.1:0", admin="127.0.0.1:0", sidecar=sidecar.address)
    async with AsyncExitStack() as stack:
        if sidecar_alive:
            await sidecar.start()
        stack.push_async_callback(sidecar.stop)
        timeout = aiohttp.ClientTimeout(DEADLINE_S)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        world = World(sidecar, providers, http)
        patient = replace(registry, envoy=here, decision_ms=DECISION_MS)
        await stack.enter_async_context(envoy_on(world, patient, directory, build=build))
        yield world


class Front(msgspec.Struct, frozen=True):
    """A TLS server before a plain one: what it proves to be, and the protocols that it offers (ALPN)."""

    port: int  # of the plain server, on loopback
    certificate: trustme.LeafCert
    protocols: tuple[str, ...] = BOTH


@asynccontextmanager
async def fronts(directory: Path, servers: Mapping[str, Front]) -> AsyncIterator[Mapping[str, int]]:
    """TLS servers on loopback, their ports by name, in one more Envoy.

    What they pass on says how they were spoken to: ``x-front-protocol`` and ``x-front-sni``.
    """
    admin, *chosen = free(1 + len(servers))
    ports = dict(zip(servers, chosen, strict=True))
    listeners = [_listener(directory, name, servers[name], port) for name, port in ports.items()]
    tree = {
        "admin": {"address": _address(admin)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [_cluster(name, front.port) for name, front in servers.items()],
        },
    }
    config = directory / "front.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [str(envoy_process.find()), "-c", str(config), "--disable-hot-restart", "--concurrency", "1"]
    process = await Process.start("front", command, log=directory / "front.log")
    try:
        await process.ready(f"http://{HOST}:{admin}/ready", timeout_s=DEADLINE_S)
        yield ports
    finally:
        await process.stop()


def write_authority(directory: Path, authority: trustme.CA, name: str = "ca.pem") -> str:
    """The authority's certificate as a registry names it."""
    authority.cert_pem.write_to_path(str(directory / name))
    return name


def _listener(directory: Path, name: str, front: Front, port: int) -> dict[str, Any]:
    chain, key = directory / f"{name}.chain.pem", directory / f"{name}.key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in front.certificate.cert_chain_pems))
    front.certificate.private_key_pem.write_to_path(str(key))
    certificate = {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [certificate],
            "alpn_protocols": list(front.protocols),
        },
    }
    inspector = {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    }
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(name)}
    return {
        "name": name,
        "address": _address(port),
        "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}],
        "filter_chains": [
            {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "filters": [manager],
            }
        ],
    }


def _manager(name: str) -> dict[str, Any]:
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    told = {"x-front-protocol": "%PROTOCOL%", "x-front-sni": "%REQUESTED_SERVER_NAME%"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}],
            "request_headers_to_add": [
                {"header": {"key": key, "value": value}} for key, value in told.items()
            ],
        },
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    host = {"endpoint": {"address": _address(port)}}
    return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}

"""Each provider gets its own key and nobody else's; each address is reached the right way."""

from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType

from extproc.envoyconf.clusters import secrets, sidecar_cluster, upstream_cluster, upstream_clusters
from extproc.envoyconf.typed_config import Names, Site, plain
from extproc.registry.model_settings import BEARER, Auth, Model, Passthrough
from extproc.registry.schema import Registry
from tests.envoyconf.conftest import JSON, Launch, World, decided

HERE = Site(Path("/etc/router"))
CREDENTIALS = JSON | {
    "authorization": "Bearer client",
    "proxy-authorization": "Basic client",
    "cookie": "session=client",
    "x-api-key": "client",
    "api-key": "client",
    "x-goog-api-key": "client",
    "openai-organization": "org-client",
    "openai-project": "client",
}


@pytest.mark.parametrize(
    ("model", "key"), [("small", "Bearer sk-small"), ("large", "Bearer sk-large"), ("local", None)]
)
async def test_a_provider_gets_its_own_key_or_none_and_never_the_clients(
    world: World, model: str, key: str | None
) -> None:
    world.sidecar.decision = decided(model)
    assert (await world.ask(headers=CREDENTIALS)).by == model
    headers = world.only_request()[1].headers
    assert headers.get("authorization") == key
    assert "client" not in "".join(headers.values())


async def test_what_passes_untouched_has_the_passthrough_upstreams_key(world: World) -> None:
    await world.ask(path="/v1/embeddings", headers=CREDENTIALS)
    headers = world.only_request()[1].headers
    assert headers["authorization"] == "Bearer sk-rest"
    assert "client" not in "".join(headers.values())


async def test_no_key_is_in_the_configuration_or_shown_by_envoy(world: World) -> None:
    await world.ask()
    shown = await world.admin("/config_dump")
    assert "small.key" in (world.log.parent / "envoy.yaml").read_text()
    assert "sk-small" not in shown + (world.log.parent / "envoy.yaml").read_text() + world.log.read_text()


async def test_a_provider_is_called_by_its_own_name(world: World) -> None:
    for model in ("small", "local"):
        world.sidecar.decision = decided(model)
        await world.ask()
    (small,), (local,) = world.providers["small"].received, world.providers["local"].received
    assert small.headers["host"] == f"127.0.0.1:{world.providers['small'].port}"
    assert local.headers["host"] == f"localhost:{world.providers['local'].port}"


async def test_many_requests_at_once_meet_no_limit_of_envoys(launch: Launch) -> None:
    world = await launch()
    limits = [line for line in (await world.admin("/clusters")).splitlines() if "default_priority" in line]
    assert {line.partition("::")[0] for line in limits} == {
        "model-small",
        "model-large",
        "model-local",
        "passthrough",
        "ext-proc",
    }
    assert {line.rpartition("::")[2] for line in limits} == {"1000000"}


@pytest.mark.parametrize(
    ("upstream", "kind", "address", "port", "name"),
    [
        ("http://10.0.0.7:8000", ClusterDiscoveryType.STATIC, "10.0.0.7", 8000, "10.0.0.7:8000"),
        ("http://[::1]:8000/", ClusterDiscoveryType.STATIC, "::1", 8000, "[::1]:8000"),
        ("http://vllm.models.svc", ClusterDiscoveryType.STRICT_DNS, "vllm.models.svc", 80, "vllm.models.svc"),
    ],
)
def test_names_are_resolved_and_addresses_are_not(
    upstream: str, kind: ClusterDiscoveryType, address: str, port: int, name: str
) -> None:
    cluster = upstream_cluster("m", Model(base_url=upstream), BEARER, HERE)
    endpoint = only_endpoint(cluster)
    assert cluster.type == kind
    assert endpoint["address"]["socket_address"] == {"address": address, "port_value": port}
    assert endpoint["hostname"] == name


@pytest.mark.parametrize(
    ("sidecar", "kind", "address"),
    [
        ("unix:/run/s", "STATIC", {"pipe": {"path": "/run/s"}}),
        ("127.0.0.1:50051", "STATIC", {"socket_address": {"address": "127.0.0.1", "port_value": 50051}}),
        (
            "router.svc:80",
            "STRICT_DNS",
            {"socket_address": {"address": "router.svc", "port_value": 80}},
        ),
    ],
)
def test_the_sidecar_is_reached_by_socket_address_or_name(sidecar: str, kind: str, address: object) -> None:
    cluster = sidecar_cluster([sidecar])
    assert plain(cluster)["type"] == kind
    assert only_endpoint(cluster)["address"] == address


def test_every_model_has_a_cluster_and_only_those_with_a_key_a_filter() -> None:
    models = {
        "a": Model(base_url="http://127.0.0.1:1"),
        "b": Model(base_url="http://127.0.0.1:2", auth=Auth(file="b.key")),
    }
    registry = Registry(models=models, default="a")
    made = {cluster.name: plain(cluster) for cluster in upstream_clusters(registry, HERE, Names())}
    assert made.keys() == {"model-a", "model-b"}
    assert "credential_injector" not in str(made["model-a"])
    assert "'name': 'key-model-b'" in str(made["model-b"])


def only_endpoint(cluster: Cluster) -> dict[str, Any]:
    (locality,) = plain(cluster)["load_assignment"]["endpoints"]
    (host,) = locality["lb_endpoints"]
    endpoint: dict[str, Any] = host["endpoint"]
    return endpoint


def test_a_models_key_file_is_named_relative_to_the_registry_and_not_read() -> None:
    registry = Registry(
        models={
            "a": Model(base_url="http://127.0.0.1:1", auth=Auth(file="keys/a")),
            "b": Model(base_url="http://127.0.0.1:2", auth=Auth(file="/run/secrets/b")),
            "c": Model(base_url="http://127.0.0.1:3"),
            "d": Model(base_url="http://127.0.0.1:4", auth=Auth(env="D_KEY")),
            "e": Model(base_url="http://127.0.0.1:5", auth="passthrough"),
        },
        passthrough=Passthrough(base_url="http://127.0.0.1:6", auth=Auth(file="keys/rest")),
        default="a",
    )
    assert [plain(secret) for secret in secrets(registry, Site(Path("/etc/router")), Names())] == [
        {"name": "key-model-a", "generic_secret": {"secret": {"filename": "/etc/router/keys/a"}}},
        {"name": "key-model-b", "generic_secret": {"secret": {"filename": "/run/secrets/b"}}},
        {"name": "key-model-d", "generic_secret": {"secret": {"environment_variable": "D_KEY"}}},
        {"name": "key-passthrough", "generic_secret": {"secret": {"filename": "/etc/router/keys/rest"}}},
    ]

"""One version of a registry as files: what changes gets another name, what does not keeps its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from extproc.envoyconf import xds_files
from extproc.envoyconf.typed_config import Site
from extproc.envoyconf.xds_files import CLUSTERS, LISTENERS, ROUTES, Generation, HeldFiles, content_names
from extproc.registry.model_settings import Auth, Model, PriceSettings
from extproc.registry.schema import Registry, RouteSettings

SITE = Site(Path("/etc/router"), Path("/run/router/xds"))
SMALL = Model(base_url="http://127.0.0.1:1", name="small-8b", auth=Auth(file="small.key"))
LARGE = Model(base_url="https://large.example/base/v1", auth=Auth(env="LARGE_KEY"))
REGISTRY = Registry(
    models={"small": SMALL, "org/large": LARGE},
    default="org/large",
    routes={"chat": RouteSettings(candidates="small", examples=["hi"], fallback="org/large")},
)
CHANGES = {
    "its name at the provider": replace(SMALL, name="small-9b"),
    "its address": replace(SMALL, base_url="http://127.0.0.1:2"),
    "its key's file": replace(SMALL, auth=Auth(file="other.key")),
    "whose credentials it gets": replace(SMALL, auth="passthrough"),
    "its timeouts": replace(SMALL, load_balancing="random"),
}


def with_small(model: Model) -> Registry:
    return replace(REGISTRY, models={**REGISTRY.models, "small": model})


@pytest.fixture(scope="module")
def made() -> Generation:
    return xds_files.generation(REGISTRY, "v1", SITE)


def everything(generation: Generation) -> str:
    return json.dumps([generation.clusters, generation.listeners, generation.routes, generation.secrets])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_a_model_makes_another_cluster_hop_and_chain(change: Model) -> None:
    before, after = content_names(REGISTRY, SITE), content_names(with_small(change), SITE)
    changed = {name for name in before if before[name] != after[name]}
    # A chain that asks it is another chain, too.
    assert {name for name in before if "small" in name} == changed


def test_what_envoy_never_sees_changes_no_name() -> None:
    change = replace(SMALL, price=PriceSettings(input=1, output=2), context_window=1000, pin=False)
    assert content_names(with_small(change), SITE) == content_names(REGISTRY, SITE)


def test_names_are_ours_before_the_mark(made: Generation) -> None:
    ours = {name.partition("~")[0]: cluster for name, cluster in made.clusters.items()}
    assert {"model-small", "model-org/large", "chain-small|org/large"} <= ours.keys()
    for name, cluster in ours.items():
        assert cluster["alt_stat_name"] == name  # so that statistics add up over the versions
    assert [name.partition("~")[0] for name in made.listeners] == ["llm", "hop-small", "hop-org/large"]


def test_a_hop_leads_to_its_own_versions_cluster_and_follows_no_others_routes(made: Generation) -> None:
    hop = next(hop for name, hop in made.listeners.items() if name.startswith("hop-small~"))
    small = next(name for name in made.clusters if name.startswith("model-small~"))
    assert f'"cluster": "{small}"' in json.dumps(hop)
    assert '"rds"' not in json.dumps(hop)


def test_every_cluster_that_routes_name_is_there(made: Generation) -> None:
    named = set(_values(made.routes, "cluster"))
    assert named <= made.clusters.keys()
    assert any(name.startswith("chain-") for name in named)


def test_the_version_stands_in_the_routes_alone(made: Generation) -> None:
    other = xds_files.generation(REGISTRY, "v2", SITE)
    assert made.routes != other.routes
    assert (made.clusters, made.listeners, made.secrets, made.bootstrap) == (
        other.clusters,
        other.listeners,
        other.secrets,
        other.bootstrap,
    )


def test_a_secret_has_a_file_whose_name_any_model_can_have(made: Generation) -> None:
    (small, large) = made.secrets
    assert small.startswith("sds-key-model-small~")
    assert large.startswith("sds-key-model-org%2Flarge~")
    assert [secret["generic_secret"]["secret"] for secret in made.secrets.values()] == [
        {"filename": "/etc/router/small.key"},
        {"environment_variable": "LARGE_KEY"},
    ]
    for file in made.secrets:
        assert f'"/run/router/xds/{file}"' in json.dumps(made.clusters)


def test_nothing_asks_envoy_to_watch_a_directory(made: Generation) -> None:
    """Every rename in it would then have all files read again, in no order of ours."""
    assert "watched_directory" not in everything(made)
    assert "watched_directory" not in json.dumps(made.bootstrap)


def test_the_bootstrap_has_the_sidecars_cluster_and_reads_the_rest(made: Generation) -> None:
    assert [each["name"] for each in made.bootstrap["static_resources"]["clusters"]] == ["ext-proc"]
    paths = set(_values(made.bootstrap["dynamic_resources"], "path"))
    assert paths == {f"/run/router/xds/{name}" for name in (CLUSTERS, LISTENERS)}
    assert f'"/run/router/xds/{ROUTES}"' in json.dumps(made.listeners)


def test_a_file_says_its_version_and_the_type_of_each_resource(made: Generation) -> None:
    told = json.loads(xds_files.response("v1", made.clusters.values()))
    assert told["version_info"] == "v1"
    types = {each["@type"] for each in told["resources"]}
    assert types == {"type.googleapis.com/envoy.config.cluster.v3.Cluster"}


def test_a_file_without_resources_is_never_made() -> None:
    with pytest.raises(ValueError, match="empty"):
        xds_files.response("v1", [])


def test_what_files_hold_can_be_read_back(made: Generation) -> None:
    texts = {
        CLUSTERS: xds_files.response("v1", made.clusters.values()),
        LISTENERS: xds_files.response("v1", made.listeners.values()),
        ROUTES: xds_files.response("v1", [made.routes]),
    }
    assert xds_files.held(texts) == HeldFiles("v1", made.clusters, made.listeners)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version_info": "v", "resources": [1]}'])
def test_files_that_are_absent_or_damaged_hold_nothing(text: str) -> None:
    assert xds_files.held({CLUSTERS: text, ROUTES: text}) == HeldFiles()


def _values(tree: Any, key: str) -> list[str]:
    if isinstance(tree, list):
        return [found for each in tree for found in _values(each, key)]
    if not isinstance(tree, dict):
        return []
    own = [tree[key]] if isinstance(tree.get(key), str) else []
    return own + [found for each in tree.values() for found in _values(each, key)]

"""Envoy's two configurations: one listener per way through the router, and the model behind all of them."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from benchmarks.workload import LLM_PATH, LLM_ROUTE
from extproc.demo.loopback_ports import HOST
from extproc.envoyconf import bootstrap
from extproc.envoyconf.clusters import SIDECAR_CLUSTER
from extproc.registry.schema import Registry

Tree: TypeAlias = dict[str, Any]

_EXT_PROC = "envoy.filters.http.ext_proc"
_ROUTER = "envoy.filters.http.router"
_MODEL = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_BUFFER = "envoy.extensions.filters.http.buffer.v3.Buffer"
_COMPLETION = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"A short answer."},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":20,"completion_tokens":4,"total_tokens":24}}'
)
_ROUTED = _COMPLETION.replace("A short answer.", rf"{{\"route\":\"{LLM_ROUTE}\",\"why\":\"small talk\"}}")


def front(
    patient: Registry,
    others: Mapping[str, Registry],
    directory: Path,
    *,
    plain: int,
    do_nothing: int,
    do_nothing_at: str,
) -> Tree:
    """The Envoy under test: the generated configuration of all registries, and two listeners without us.

    All listeners are of one Envoy and reach the same clusters of models. ``plain`` is the
    generated listener without what asks the sidecar and what fails open without it; ``do_nothing``
    is the plain one with the generated ext_proc filter in front, asking ``do_nothing_at``.
    """
    tree = bootstrap.build(patient, directory)
    resources = tree["static_resources"]
    (routed,) = resources["listeners"]
    sidecar = _cluster(tree, SIDECAR_CLUSTER)
    nothing = _renamed(sidecar, SIDECAR_CLUSTER, "do-nothing")
    endpoint = nothing["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"] = {"pipe": {"path": do_nothing_at}}
    # It speaks ext_proc and nothing else, health least of all.
    del nothing["health_checks"], nothing["outlier_detection"]
    resources["listeners"] = [
        routed,
        _without_us(routed, "plain", plain),
        _renamed(_without_us(routed, "do-nothing", do_nothing, _EXT_PROC), SIDECAR_CLUSTER, "do-nothing"),
    ]
    resources["clusters"].append(nothing)
    for name, registry in others.items():
        other = bootstrap.build(registry, directory)
        listener, *egress = _renamed(other["static_resources"]["listeners"], SIDECAR_CLUSTER, name)
        resources["listeners"] += [{**listener, "name": name}, *egress]
        resources["clusters"].append(_renamed(_cluster(other, SIDECAR_CLUSTER), SIDECAR_CLUSTER, name))
        known = {each["name"] for each in resources["clusters"]}
        clusters = other["static_resources"]["clusters"]
        resources["clusters"] += [each for each in clusters if each["name"] not in known]
    return tree


def model(port: int, admin: int) -> Tree:
    """An Envoy that answers with a small completion, as fast as Envoy can: with a route at ``LLM_PATH``."""
    routes = [_answer(f"{LLM_PATH}/", _ROUTED), _answer("/", _COMPLETION)]
    manager = {
        "stat_prefix": "model",
        "route_config": {"virtual_hosts": [{"name": "model", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            # Answering before the request has come in whole would cost its connection.
            _filter("envoy.filters.http.buffer", _BUFFER, max_request_bytes=1_048_576),
            _filter(_ROUTER, "envoy.extensions.filters.http.router.v3.Router"),
        ],
    }
    listener = {
        "name": "model",
        "address": _address(port),
        "filter_chains": [
            {"filters": [_filter("envoy.filters.network.http_connection_manager", _MODEL, **manager)]}
        ],
    }
    return {"admin": {"address": _address(admin)}, "static_resources": {"listeners": [listener]}}


def _answer(prefix: str, body: str) -> Tree:
    return {
        "match": {"prefix": prefix},
        "direct_response": {"status": 200, "body": {"inline_string": body}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def write(tree: Tree, path: Path) -> None:
    """As a file that Envoy starts with."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


def _without_us(listener: Tree, name: str, port: int, *keep: str) -> Tree:
    """The listener at another port, with only the router and the filters ``keep``, and no outcome log."""
    made: Tree = copy.deepcopy(listener)
    made |= {"name": name, "address": _address(port)}
    manager = made["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] in (*keep, _ROUTER)]
    for each in manager["http_filters"]:
        if each["name"] == _EXT_PROC:
            # The sidecar that cannot be reached must not pass for a fast one.
            each["typed_config"]["failure_mode_allow"] = False
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            overrides = route.pop("typed_per_filter_config", {})
            route["typed_per_filter_config"] = {key: overrides[key] for key in keep if key in overrides}
    return made


def _cluster(tree: Mapping[str, Any], name: str) -> Tree:
    (found,) = (each for each in tree["static_resources"]["clusters"] if each["name"] == name)
    return dict(found)


def _renamed(tree: Any, old: str, new: str) -> Any:
    """A copy in which every value that is ``old`` is ``new``."""
    if isinstance(tree, dict):
        return {key: _renamed(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value, old, new) for value in tree]
    return new if tree == old else tree


def _filter(name: str, message: str, **config: Any) -> Tree:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{message}", **config}}


def _address(port: int) -> Tree:
    return {"socket_address": {"address": HOST, "port_value": port}}

"""What to add to the configuration of an Envoy that already runs.

The paths that are not the router's stay with the routes that are there: no route of these answers
for the rest of the paths, nor for an API that no model speaks.
"""

import typing
from pathlib import Path

from envoy_data_plane.envoy.config.route.v3 import Route, VirtualHost

from extproc.envoyconf.bootstrap import frame, resources
from extproc.envoyconf.client_listener import connection_manager
from extproc.envoyconf.http_filters import ROUTER
from extproc.envoyconf.local_replies import attached_replies
from extproc.envoyconf.site import Names, Site
from extproc.envoyconf.typed_config import plain
from extproc.registry.passthrough_list import passing
from extproc.registry.schema import Registry
from extproc.vocabulary import Api

# Of the listener's connection manager; its other settings are not the router's.
_OF_THE_MANAGER = (
    "early_header_mutation_extensions",
    "always_set_request_id_in_response",
    "normalize_path",
    "merge_slashes",
    "path_with_escaped_slashes_action",
    "access_log",
    "local_reply_config",
    "http_filters",
)
_UNDERSCORES = "headers_with_underscores_action"

Tree = dict[str, typing.Any]


def fragments(registry: Registry, directory: Path) -> Tree:
    """The parts by where they go; ``directory`` is that of the registry file."""
    site = Site(directory)
    made = resources(registry, "", site, Names())
    manager = connection_manager(registry, made.routes, site)
    manager.http_filters = [each for each in manager.http_filters if each.name != ROUTER]
    manager.local_reply_config = attached_replies(registry)
    managed = plain(manager)
    (host,) = made.routes.virtual_hosts
    host.routes = [route for route in host.routes if _ours(registry, route)]
    internal = made.listeners[1:]
    return {
        "bootstrap": {
            "bootstrap_extensions": [plain(each) for each in frame(registry).bootstrap_extensions]
            if internal
            else []
        },
        "static_resources": {
            "secrets": [plain(secret) for secret in made.secrets],
            "clusters": [plain(cluster) for cluster in (*made.clusters, made.sidecar)],
            "listeners": [plain(listener) for listener in internal],
        },
        "http_connection_manager": {
            **{key: managed[key] for key in _OF_THE_MANAGER},
            "common_http_protocol_options": {
                _UNDERSCORES: managed["common_http_protocol_options"][_UNDERSCORES]
            },
        },
        "route_config": {
            "max_direct_response_body_size_bytes": made.routes.max_direct_response_body_size_bytes
        },
        "virtual_host": _host(host),
    }


def _host(host: VirtualHost) -> Tree:
    return {key: value for key, value in plain(host).items() if key not in ("name", "domains")}


def _ours(registry: Registry, route: Route) -> bool:
    silent = [api for api in Api if api not in registry.defaults]
    unsupported_api = [f"{kind}-{api}" for api in silent for kind in ("unsupported_api", "misspelt")]
    rest = ["nothing-here", *(["passthrough"] if passing(registry) is None else [])]
    return route.name not in (*unsupported_api, *rest)

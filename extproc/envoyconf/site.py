"""Where a generated configuration lives: what its files count from, and how its parts arrive."""

from pathlib import Path
from urllib.parse import quote

import msgspec
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, ConfigSource, PathConfigSource
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import Rds


class Site(msgspec.Struct, frozen=True):
    """The places that a configuration names.

    With ``xds``, the directory of Envoy's filesystem xDS, its dynamic parts are read from there, and
    again whenever they are replaced; without it everything stands in one static bootstrap. Relative
    paths are Envoy's to resolve, against where it is started.
    """

    registry: Path  # the directory of the registry file
    xds: Path | None = None

    def file(self, name: str) -> str:
        """The name of the file with the dynamic part ``name``, which may have any characters."""
        return f"{quote(name, safe='@:~')}.json"

    def source(self, name: str) -> ConfigSource | None:
        """Where Envoy reads the dynamic part ``name``; None when that is in the bootstrap itself."""
        if self.xds is None:
            return None
        # No watched_directory: with it, every file that is replaced has all of them read again, so
        # that the order of writing would no longer be ours.
        return ConfigSource(
            path_config_source=PathConfigSource(path=str(self.xds / self.file(name))),
            resource_api_version=ApiVersion.V3,
        )

    def inline(self, routes: RouteConfiguration) -> RouteConfiguration | None:
        """The routes, where they stand in their listener."""
        return routes if self.xds is None else None

    def rds(self, routes: RouteConfiguration) -> Rds | None:
        """Where the routes are, when they do not stand in their listener."""
        source = self.source("rds")
        return None if source is None else Rds(config_source=source, route_config_name=routes.name)


class Names(dict[str, str]):
    """Under which names Envoy has clusters and hops, by our own; one that is not here keeps its name."""

    def __missing__(self, name: str) -> str:
        return name

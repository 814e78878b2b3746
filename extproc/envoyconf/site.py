"""Where a generated configuration lives: what its files count from, and how its parts arrive."""

from pathlib import Path

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

    def source(self, name: str) -> ConfigSource | None:
        """Where Envoy reads the dynamic part ``name``; None when that is in the bootstrap itself."""
        if self.xds is None:
            return None
        # No watched_directory: with it, every file that is replaced has all of them read again, so
        # that the order of writing would no longer be ours.
        return ConfigSource(
            path_config_source=PathConfigSource(path=str(self.xds / f"{name}.json")),
            resource_api_version=ApiVersion.V3,
        )

    def inline(self, routes: RouteConfiguration) -> RouteConfiguration | None:
        """The routes, where they stand in their listener."""
        return routes if self.xds is None else None

    def rds(self, routes: RouteConfiguration) -> Rds | None:
        """Where the routes are, when they do not stand in their listener."""
        source = self.source(f"rds-{routes.name}")
        return None if source is None else Rds(config_source=source, route_config_name=routes.name)

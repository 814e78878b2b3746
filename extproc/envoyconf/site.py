"""Where a generated configuration lives: which directory its relative files count from, and how parts of it arrive."""

from pathlib import Path

import msgspec
from envoy_data_plane.envoy.config.core.v3 import ConfigSource, PathConfigSource, WatchedDirectory


class Site(msgspec.Struct, frozen=True):
    """The places that a configuration names.

    With ``xds``, the directory of Envoy's filesystem xDS, its dynamic parts are read from there and
    read again whenever they are replaced; without it everything stands in one static bootstrap.
    Relative paths are Envoy's to resolve, against where it is started.
    """

    registry: Path  # the directory of the registry file
    xds: Path | None = None

    def source(self, name: str) -> ConfigSource | None:
        """Where Envoy reads the dynamic part ``name``; None when that is in the bootstrap itself."""
        if self.xds is None:
            return None
        return ConfigSource(
            path_config_source=PathConfigSource(
                path=str(self.xds / f"{name}.json"), watched_directory=WatchedDirectory(path=str(self.xds))
            )
        )

"""Providers' keys: Envoy reads them from its environment or the operator's own files.

No generated file holds one.
"""

from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret

from extproc.registry.schema import Auth, Registry


def secret_name(model: str) -> str:
    """The Envoy secret that holds a registry model's key."""
    return f"key-{model}"


def secrets(registry: Registry, directory: Path) -> list[Secret]:
    """One secret per model with ``auth``; ``directory`` is that of the registry file.

    A key file holds the bare key; Envoy cuts newlines off its end. Both kinds are read when Envoy
    starts: one that is missing stops it, an empty one makes every request to that model a 401.
    """
    return [
        Secret(
            name=secret_name(name),
            generic_secret=GenericSecret(secret=_source(model.auth, directory)),
        )
        for name, model in registry.models.items()
        if model.auth
    ]


def _source(auth: Auth, directory: Path) -> DataSource:
    if auth.env:
        return DataSource(environment_variable=auth.env)
    return DataSource(filename=str(directory / auth.file))

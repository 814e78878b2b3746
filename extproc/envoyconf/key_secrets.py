"""Providers' keys: Envoy reads them from its environment or the operator's own files.

No generated file holds one.
"""

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret

from extproc.envoyconf.clusters import upstreams_of
from extproc.envoyconf.providers import secret_name
from extproc.envoyconf.site import Names, Site
from extproc.registry.model_settings import Auth
from extproc.registry.schema import Registry


def secrets(registry: Registry, site: Site, names: Names) -> list[Secret]:
    """One secret per upstream that has a key of its own.

    A key file holds the bare key; Envoy cuts newlines off its end.
    """
    return [
        Secret(
            name=secret_name(names[cluster]),
            generic_secret=GenericSecret(secret=_source(upstream.auth, site)),
        )
        for cluster, upstream in upstreams_of(registry).items()
        if isinstance(upstream.auth, Auth)
    ]


def _source(auth: Auth, site: Site) -> DataSource:
    if auth.env:
        return DataSource(environment_variable=auth.env)
    return DataSource(filename=str(site.registry / auth.file))

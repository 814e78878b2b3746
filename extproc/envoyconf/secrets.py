"""Providers' keys: Envoy reads them from its environment or the operator's own files.

No generated file holds one.
"""

from collections.abc import Mapping

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret

from extproc.envoyconf.clusters import PASSTHROUGH_CLUSTER
from extproc.envoyconf.providers import secret_name
from extproc.envoyconf.site import Site
from extproc.registry.schema import Registry, cluster_name
from extproc.registry.upstreams import Auth, Upstream


def secrets(registry: Registry, site: Site) -> list[Secret]:
    """One secret per upstream that has a key of its own.

    A key file holds the bare key; Envoy cuts newlines off its end.
    """
    return [
        Secret(
            name=secret_name(cluster),
            generic_secret=GenericSecret(secret=_source(upstream.auth, site)),
        )
        for cluster, upstream in _upstreams(registry).items()
        if isinstance(upstream.auth, Auth)
    ]


def _upstreams(registry: Registry) -> Mapping[str, Upstream]:
    models = {cluster_name(name): model for name, model in registry.models.items()}
    rest = registry.passthrough
    return {**models, PASSTHROUGH_CLUSTER: rest} if rest else models


def _source(auth: Auth, site: Site) -> DataSource:
    if auth.env:
        return DataSource(environment_variable=auth.env)
    return DataSource(filename=str(site.registry / auth.file))

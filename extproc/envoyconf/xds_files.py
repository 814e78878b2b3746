"""Filesystem xDS: one version of a registry as the files that Envoy reads, and reads again.

Pure: values in, texts out. ``xds_directory`` keeps them on the disk, ``version_switching`` brings Envoy
from one version to the next.
"""

import json
import typing
from collections.abc import Iterable, Mapping

import betterproto2
import msgspec
from envoy_data_plane.envoy.config.bootstrap.v3 import BootstrapDynamicResources, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.bootstrap import frame, resources, static
from extproc.envoyconf.content_names import addressed
from extproc.envoyconf.providers import secret_part
from extproc.envoyconf.site import Site
from extproc.envoyconf.typed_config import plain
from extproc.registry.schema import Registry

Tree = dict[str, typing.Any]
ByName = Mapping[str, Tree]

BOOTSTRAP = "bootstrap.yaml"
LISTENERS = "lds.json"
CLUSTERS = "cds.json"
ROUTES = "rds.json"


class Generation(msgspec.Struct, frozen=True):
    """All that Envoy is told of one version, as plain JSON values."""

    version: str
    bootstrap: Tree  # read when Envoy starts, and only then
    clusters: ByName
    listeners: ByName
    routes: Tree
    secrets: ByName  # by the name of its file
    whole: Tree  # the same in one static bootstrap, without keys: for Envoy to check


class HeldFiles(msgspec.Struct, frozen=True):
    """What the files tell Envoy at present."""

    version: str = ""  # of the routes: the version by which Envoy asks for decisions
    clusters: ByName = {}
    listeners: ByName = {}


def generation(registry: Registry, version: str, site: Site) -> Generation:
    """The files' content for a registry that passed every check; ``site.xds`` is where they will be."""
    names = addressed(registry, site)
    made = resources(registry, version, site, names)
    checked = resources(registry, version, Site(site.registry), names)
    return Generation(
        version=version,
        bootstrap=_bootstrap(registry, site, made.sidecar),
        clusters={cluster.name: _typed(cluster) for cluster in made.clusters},
        listeners={listener.name: _typed(listener) for listener in made.listeners},
        routes=_typed(made.routes),
        secrets={site.file(secret_part(secret.name)): _typed(secret) for secret in made.secrets},
        whole=static(
            registry, msgspec.structs.replace(checked, secrets=[_keyless(each) for each in checked.secrets])
        ),
    )


def response(version: str, resources: Iterable[Tree]) -> str:
    """One file's text: a DiscoveryResponse. Raises ``ValueError`` when it would hold nothing.

    An empty list of clusters would be taken, and remove every one.
    """
    listed = list(resources)
    if not listed:
        raise ValueError("an empty list of resources must not be told to Envoy")
    return json.dumps({"version_info": version, "resources": listed}, indent=1) + "\n"


def held(texts: Mapping[str, str]) -> HeldFiles:
    """What the files of these names and texts tell; what is not there, or cannot be read, tells nothing."""
    version, _ = _read(texts.get(ROUTES, ""))
    return HeldFiles(version, _read(texts.get(CLUSTERS, ""))[1], _read(texts.get(LISTENERS, ""))[1])


def _read(text: str) -> tuple[str, dict[str, Tree]]:
    try:
        told = json.loads(text)
        return told["version_info"], {resource["name"]: resource for resource in told["resources"]}
    except (ValueError, KeyError, TypeError):
        return "", {}


def _bootstrap(registry: Registry, site: Site, sidecar: Cluster) -> Tree:
    whole = frame(registry)
    whole.dynamic_resources = BootstrapDynamicResources(
        lds_config=site.source("lds"), cds_config=site.source("cds")
    )
    # Not by CDS: a cluster that is replaced resets the streams of the decisions under way.
    whole.static_resources = BootstrapStaticResources(clusters=[sidecar])
    return plain(whole)


def _typed(message: betterproto2.Message) -> Tree:
    return plain(Any.pack(message))


def _keyless(secret: Secret) -> Secret:
    """The keys themselves are looked at elsewhere, and Envoy's environment is not ours."""
    return Secret(name=secret.name, generic_secret=GenericSecret(secret=DataSource(inline_string="a key")))

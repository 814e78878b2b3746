"""The content of Envoy's xDS files for one version of a registry.

The names of clusters and hops contain a hash of their content. If a cluster changed under the same name,
requests decided by the old version would reach its new model until the routes changed too. With new names,
the old and the new clusters exist side by side, and one replacement of the routes switches between them.

Pure: values in, texts out. ``xds_directory`` writes the files. ``version_switching`` brings Envoy from one
version to the next.
"""

import hashlib
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
from extproc.envoyconf.chains import chains, hop_calls
from extproc.envoyconf.clusters import upstreams_of
from extproc.envoyconf.providers import secret_part
from extproc.envoyconf.typed_config import Names, Site, plain
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, cluster_name
from extproc.wire.observed_metadata import CONTENT_MARK

Tree = dict[str, typing.Any]
ByName = Mapping[str, Tree]

BOOTSTRAP = "bootstrap.yaml"
LISTENERS = "lds.json"
CLUSTERS = "cds.json"
ROUTES = "rds.json"

_DIGITS = 10  # of the hash in a name


class Generation(msgspec.Struct, frozen=True):
    """All that Envoy reads of one version, as plain JSON values."""

    version: str
    bootstrap: Tree  # Envoy reads it only when it starts
    clusters: ByName
    listeners: ByName
    routes: Tree
    secrets: ByName  # by the name of its file
    whole: Tree  # all of it as one static bootstrap without keys, which Envoy can check


class HeldFiles(msgspec.Struct, frozen=True):
    """What the present files contain."""

    version: str = ""  # of the routes: Envoy requests decisions of this version
    clusters: ByName = {}
    listeners: ByName = {}


def generation(registry: Registry, version: str, site: Site) -> Generation:
    """The files' content for a registry that passed every check. ``site.xds`` is their directory."""
    names = content_names(registry, site)
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
    """One file's text: a DiscoveryResponse. Raises ``ValueError`` for an empty list.

    Envoy would accept an empty list of clusters and remove all of them.
    """
    listed = list(resources)
    if not listed:
        raise ValueError("an empty list of resources would make Envoy remove all of them")
    return json.dumps({"version_info": version, "resources": listed}, indent=1) + "\n"


def held(texts: Mapping[str, str]) -> HeldFiles:
    """The content of the files, given as names to texts. An absent or unreadable file counts as empty."""
    version, _ = _read(texts.get(ROUTES, ""))
    return HeldFiles(version, _read(texts.get(CLUSTERS, ""))[1], _read(texts.get(LISTENERS, ""))[1])


def _read(text: str) -> tuple[str, dict[str, Tree]]:
    try:
        document = json.loads(text)
        return document["version_info"], {resource["name"]: resource for resource in document["resources"]}
    except (ValueError, KeyError, TypeError):
        return "", {}


def _bootstrap(registry: Registry, site: Site, sidecar: Cluster) -> Tree:
    whole = frame(registry)
    whole.dynamic_resources = BootstrapDynamicResources(
        lds_config=site.source("lds"), cds_config=site.source("cds")
    )
    # Static, because CDS would replace the cluster at a change, which resets the streams of open decisions.
    whole.static_resources = BootstrapStaticResources(clusters=[sidecar])
    return plain(whole)


def _typed(message: betterproto2.Message) -> Tree:
    return plain(Any.pack(message))


def _keyless(secret: Secret) -> Secret:
    """The secret with a fixed value, because this process may not have the keys that Envoy has."""
    return Secret(name=secret.name, generic_secret=GenericSecret(secret=DataSource(inline_string="a key")))


def content_names(registry: Registry, site: Site) -> Names:
    """A name for each cluster and hop. Two names are equal only if the content is equal."""
    made = resources(registry, "", site, Names())
    content = {cluster.name: plain(cluster) for cluster in made.clusters}
    content |= {listener.name: plain(listener) for listener in made.listeners}
    names = Names()

    def name(ours: str, *more: typing.Any) -> None:
        names[ours] = f"{ours}{CONTENT_MARK}{_digest([content[ours], *more])}"

    for cluster, upstream in upstreams_of(registry).items():
        # The model's name in the body and the place of its key are not in the cluster.
        sent = upstream.name if isinstance(upstream, Model) else ""
        name(cluster, sent, msgspec.to_builtins(upstream.auth))
    for call in hop_calls(registry):
        name(call.hop, names[cluster_name(call.model)])
    for chain, calls in chains(registry).items():
        name(chain, [names[call.hop] for call in calls])
    return names


def _digest(content: typing.Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

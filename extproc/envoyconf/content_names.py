"""Names that change with what they name.

A cluster that is changed in place serves requests that were decided by its old form: for as long as
routes and clusters are not the same version's, a request for one model would reach another under
its name. So what changes is another cluster, another hop; and one replacement of the routes switches
from all of the old to all of the new.
"""

import hashlib
import json
import typing

import msgspec

from extproc.envoyconf.bootstrap import resources
from extproc.envoyconf.chains import chains, hop_calls
from extproc.envoyconf.clusters import upstreams_of
from extproc.envoyconf.site import Names, Site
from extproc.envoyconf.typed_config import plain
from extproc.registry.model_settings import Model
from extproc.registry.schema import Registry, cluster_name
from extproc.wire.observed_metadata import CONTENT_MARK

_DIGITS = 10


def addressed(registry: Registry, site: Site) -> Names:
    """A name for each cluster and hop that is equal exactly when all that makes it is equal."""
    made = resources(registry, "", site, Names())
    content = {cluster.name: plain(cluster) for cluster in made.clusters}
    content |= {listener.name: plain(listener) for listener in made.listeners}
    names = Names()

    def name(ours: str, *more: typing.Any) -> None:
        names[ours] = f"{ours}{CONTENT_MARK}{_digest([content[ours], *more])}"

    for cluster, upstream in upstreams_of(registry).items():
        # What the body names the model, and where its key is, no cluster says.
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

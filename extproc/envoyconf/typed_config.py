"""What all modules of this package share: short forms of Envoy's typed messages, paths and names.

All configuration is built from envoy-data-plane's dataclasses, not from plain dicts. So the type checker
finds a misspelt field or a string in place of a number before Envoy does.
"""

import ipaddress
import typing
from pathlib import Path
from urllib.parse import quote

import betterproto2
import msgspec
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiVersion,
    ConfigSource,
    PathConfigSource,
    Pipe,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import Rds
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from extproc.envoyconf.message_caches import keep_by_class

keep_by_class()

ROUTER_PREFIX = "x-router-"  # of the headers that only the router may set
_UNIX = "unix:"


def plain(message: betterproto2.Message) -> dict[str, typing.Any]:
    """The message as a tree for YAML: protobuf's JSON mapping with the field names of the .proto files."""
    # Fields have these names already; betterproto's snake case would tear ``consecutive_5xx`` apart.
    return message.to_dict(casing=typing.cast(betterproto2.Casing, str))


def extension(name: str, message: betterproto2.Message) -> TypedExtensionConfig:
    """A named extension and its configuration."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(message))


def without_prefix(prefix: str) -> HeaderMutation:
    """Removes every header whose name begins with ``prefix``."""
    return HeaderMutation(
        remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix))
    )


def address(text: str, *, mode: int = 0) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/PATH``, as the registry writes them.

    ``mode`` is the file mode of a unix socket on which Envoy listens.
    """
    if text.startswith(_UNIX):
        return Address(pipe=Pipe(path=text.removeprefix(_UNIX), mode=mode))
    host, _, port = text.rpartition(":")
    return Address(socket_address=SocketAddress(address=host.strip("[]"), port_value=int(port)))


def is_name(address: Address) -> bool:
    """Whether the address must be resolved by DNS."""
    if address.socket_address is None:
        return False
    try:
        ipaddress.ip_address(address.socket_address.address)
    except ValueError:
        return True
    return False


class Site(msgspec.Struct, frozen=True):
    """The directories to which a configuration refers.

    ``xds`` is the directory of Envoy's filesystem xDS. Envoy reads the dynamic parts there, and reads a file
    again when it is replaced. Without ``xds``, everything is in one static bootstrap. Envoy resolves relative
    paths against its own working directory.
    """

    registry: Path  # the directory of the registry file
    xds: Path | None = None

    def file(self, name: str) -> str:
        """The name of the file with the dynamic part ``name``, which may have any characters."""
        return f"{quote(name, safe='@:~')}.json"

    def source(self, name: str) -> ConfigSource | None:
        """Where Envoy reads the dynamic part ``name``. None: the bootstrap contains it."""
        if self.xds is None:
            return None
        # No watched_directory: with it, Envoy reads all files again when one is replaced, and the order in
        # which they are written has no effect.
        return ConfigSource(
            path_config_source=PathConfigSource(path=str(self.xds / self.file(name))),
            resource_api_version=ApiVersion.V3,
        )

    def inline(self, routes: RouteConfiguration) -> RouteConfiguration | None:
        """The routes, if the listener contains them."""
        return routes if self.xds is None else None

    def rds(self, routes: RouteConfiguration) -> Rds | None:
        """Where Envoy reads the routes, if the listener does not contain them."""
        source = self.source("rds")
        return None if source is None else Rds(config_source=source, route_config_name=routes.name)


class Names(dict[str, str]):
    """Our names of clusters and hops to Envoy's. A name without an entry is the same in Envoy."""

    def __missing__(self, name: str) -> str:
        return name

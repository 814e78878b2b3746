"""Envoy's typed messages: their spelling in YAML, and short words for the long-winded ones.

All configuration is built from envoy-data-plane's dataclasses, not from plain dicts: a misspelt
field or a string in place of a number is refused by the type checker, and by Python when it
runs, before Envoy sees anything.
"""

import ipaddress
import typing

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress, TypedExtensionConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

ROUTER_PREFIX = "x-router-"  # of the headers that only the router may set
_UNIX = "unix:"


def plain(message: betterproto2.Message) -> dict[str, typing.Any]:
    """The message as Envoy's YAML spells it: protobuf's JSON mapping with snake_case keys."""
    tree = message.to_dict(casing=betterproto2.Casing.SNAKE)
    return typing.cast(dict[str, typing.Any], _spelled(tree))


def _spelled(value: typing.Any) -> typing.Any:
    """betterproto's snake case tears ``consecutive_5xx`` apart."""
    if isinstance(value, dict):
        return {key.replace("_5_xx", "_5xx"): _spelled(member) for key, member in value.items()}
    return [_spelled(member) for member in value] if isinstance(value, list) else value


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

    ``mode`` is that of a socket on which Envoy listens.
    """
    if text.startswith(_UNIX):
        return Address(pipe=Pipe(path=text.removeprefix(_UNIX), mode=mode))
    host, _, port = text.rpartition(":")
    return Address(socket_address=SocketAddress(address=host.strip("[]"), port_value=int(port)))


def is_name(address: Address) -> bool:
    """Must the address be resolved by DNS before it can be connected to?"""
    if address.socket_address is None:
        return False
    try:
        ipaddress.ip_address(address.socket_address.address)
    except ValueError:
        return True
    return False

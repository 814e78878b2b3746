"""Checks that several sections share: known names, addresses, header names, secrets."""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from extproc.registry.model_settings import Auth
from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source
from extproc.vocabulary import Api

# Letters, digits and hyphens are RFC 1123's; underscores are what container names have.
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def known_model(registry: Registry, name: str, source: Source, *at: str | int) -> None:
    """Raises ``RegistryError`` unless ``models`` has ``name``."""
    if name not in registry.models:
        raise source.error(unknown("model", name, registry.models), *at)


def check_asked(registry: Registry, by: str, name: str, source: Source, *at: str | int) -> None:
    """Raises ``RegistryError`` unless the sidecar itself can ask the model. ``by`` begins the message."""
    known_model(registry, name, source, *at)
    model = registry.models[name]
    if Api.OPENAI_CHAT not in model.speaks:
        raise source.error(f"{by} cannot ask `{name}` (expected a model that speaks openai.chat)", *at)
    if model.auth == "passthrough":
        raise source.error(
            f"{by} cannot ask `{name}`, which needs the client's own key (expected a "
            "model with a key in `auth`, or without `auth`)",
            *at,
        )


def check_trusted(registry: Registry, header: str, source: Source, *at: str | int, subject: str = "") -> None:
    """Raises ``RegistryError`` unless clients cannot set the header. The message begins with ``subject``."""
    trusted = {name.lower() for name in registry.trusted_headers}
    if header.lower() not in trusted and not source.is_unread("trusted_headers"):
        raise source.error(
            f"{subject}clients could set the header `{header}` (expected one of trusted_headers: "
            f"{', '.join(sorted(trusted)) or 'none declared'})",
            *at,
        )


def unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    """The message about a name that does not exist."""
    return f"there is no {kind} `{name}` (expected one of: {', '.join(known) or 'none declared'})"


def is_address(text: str) -> bool:
    """Whether the text is HOST:PORT; an IPv6 address is in brackets."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return False
    return parts.netloc == text and "@" not in text and is_host(parts.hostname or "") and bool(port)


def is_host(text: str) -> bool:
    """Whether the text is a host name or an IP address, without brackets."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return "%" not in text


def is_loopback(address: str) -> bool:
    """Whether only this machine, or this pod, can reach ``HOST:PORT``."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plaintext_problem(sidecar: str, allowed: bool) -> str:
    """Why the address of a sidecar is unsafe, because other machines can reach it; empty: it is safe."""
    if allowed or sidecar.startswith("unix:") or is_loopback(sidecar):
        return ""
    return (
        f"{sidecar} is plaintext TCP: other machines could read prompts and forge records (expected "
        "unix:/PATH or a loopback address; `sidecar_plaintext: true` in the registry's `envoy` allows it)"
    )


def is_header_name(text: str) -> bool:
    """Whether the text is a field name (RFC 9110, section 5.6.2)."""
    return _HEADER_NAME.fullmatch(text) is not None


def check_auth(auth: Auth, source: Source, *at: str | int, other: str = "") -> None:
    """A secret has one source, and is not itself in the registry. ``other``: what else the key may hold."""
    where = ".".join(map(str, at))
    if bool(auth.env) == bool(auth.file):
        raise source.error(f"{where}: expected {other}exactly one of env and file", *at)
    if auth.env and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", auth.env) is None:
        raise source.error(
            f"{where}.env is not a valid variable name (expected a name, not the key itself)",
            *at,
            "env",
        )

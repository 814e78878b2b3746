"""What several sections check: names that must be known, addresses, header names."""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source

# Letters, digits and hyphens are RFC 1123's; underscores are what container names have.
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def known_model(registry: Registry, name: str, source: Source, *at: str | int) -> None:
    """Raises ``RegistryError`` unless ``models`` has ``name``."""
    if name not in registry.models:
        raise source.error(unknown("model", name, registry.models), *at)


def unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    """What to say of a name that is not there."""
    return f"there is no {kind} `{name}` (expected one of: {', '.join(known) or 'none declared'})"


def is_address(text: str) -> bool:
    """HOST:PORT, with the brackets of an IPv6 address, and nothing else."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        return False
    return parts.netloc == text and "@" not in text and is_host(parts.hostname or "") and bool(port)


def is_host(text: str) -> bool:
    """A host's name or its address, without brackets."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return "%" not in text


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` is reached from this machine, or this pod, alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plaintext_problem(sidecar: str, allowed: bool) -> str:
    """What is wrong with the address of a sidecar that others can reach; empty when nothing is."""
    if allowed or sidecar.startswith("unix:") or is_loopback(sidecar):
        return ""
    return (
        f"{sidecar} is plaintext TCP: whoever reaches it can read prompts and forge records (expected "
        "unix:/PATH or a loopback address; `sidecar_plaintext: true` in the registry's `envoy` allows it)"
    )


def is_header_name(text: str) -> bool:
    """A field name as RFC 9110 has it, section 5.6.2."""
    return _HEADER_NAME.fullmatch(text) is not None

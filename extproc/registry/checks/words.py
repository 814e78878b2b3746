"""What several sections check: names that must be known, addresses, header names."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from extproc.registry.schema import Registry
from extproc.registry.source import Source

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
    return parts.netloc == text and "@" not in text and bool(parts.hostname) and port is not None and port > 0


def is_header_name(text: str) -> bool:
    """A field name as RFC 9110 has it, section 5.6.2."""
    return _HEADER_NAME.fullmatch(text) is not None

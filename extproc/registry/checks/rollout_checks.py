"""Checks of ``rollout`` and of the headers that identify a user or a conversation."""

import re

from extproc.registry.schema import Percent, Registry
from extproc.registry.yaml_source import Source

_WITH_SIGN = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")


def check_rollout(registry: Registry, source: Source) -> None:
    """Percentages are valid, and headers are trusted. Raises ``RegistryError``."""
    with source.collecting():
        _check_percent(registry.rollout, source, "rollout")
    for name, route in registry.routes.items():
        with source.collecting():
            if route.rollout is not None:
                _check_percent(route.rollout, source, "routes", name, "rollout")
    trusted = {name.lower() for name in registry.trusted_headers}
    for key in ("rollout_key", "conversation_header"):
        header = getattr(registry, key)
        if header and header.lower() not in trusted:
            raise source.error(
                f"{key}: clients could set the header `{header}` (expected one of trusted_headers: "
                f"{', '.join(sorted(trusted)) or 'none declared'})",
                key,
            )


def share_of(percent: Percent) -> float:
    """Convert a percentage to a share of 1. Raises ``ValueError`` outside of 0 to 100."""
    if isinstance(percent, str):
        match = _WITH_SIGN.fullmatch(percent.strip())
        percent = float(match[1]) if match else -1.0
    if not 0 <= percent <= 100:
        raise ValueError(percent)
    return percent / 100


def _check_percent(percent: Percent, source: Source, *at: str) -> None:
    try:
        share_of(percent)
    except ValueError as error:
        raise source.error(
            f'{".".join(at)}: {percent!r} is not a percentage (expected 0 to 100, or text such as "10 %")',
            *at,
        ) from error

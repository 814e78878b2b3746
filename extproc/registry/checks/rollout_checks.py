"""Checks of ``rollout`` and of the headers that identify a user or a conversation."""

import re

from extproc.registry.checks.shared_checks import check_trusted
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
    for key in ("rollout_key", "conversation_header"):
        header = getattr(registry, key)
        with source.collecting():
            if header:
                check_trusted(registry, header, source, key, subject=f"{key}: ")


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

"""Checks of where secrets are said to be; whether they are there, ``registry.key_files`` tells."""

import re

from extproc.registry.model_settings import Auth
from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source


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


def check_feedback(registry: Registry, source: Source) -> None:
    """Raises ``RegistryError``."""
    if registry.feedback is not None:
        check_auth(registry.feedback.token, source, "feedback", "token")

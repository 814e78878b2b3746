"""Cross-checks: what the schema cannot say about a registry.

One module per section; each check raises ``RegistryError`` with the line and what was expected.
"""

from collections.abc import Mapping

from extproc.registry.checks.models import (
    check_default,
    check_models,
    check_passthrough,
    check_reference,
)
from extproc.registry.checks.routes import check_routes
from extproc.registry.checks.rules import check_rules, check_trusted_headers
from extproc.registry.checks.words import is_address
from extproc.registry.schema import Registry
from extproc.registry.source import Source


def check(registry: Registry, examples: Mapping[str, tuple[str, ...]], source: Source) -> None:
    """Everything that ties one part of the registry to another. Raises ``RegistryError``."""
    check_models(registry, source)
    check_default(registry, source)
    check_passthrough(registry, source)
    check_reference(registry, source)
    check_routes(registry, examples, source)
    check_trusted_headers(registry, source)
    check_rules(registry, source)
    _check_envoy(registry, source)


def _check_envoy(registry: Registry, source: Source) -> None:
    for key, unix in (("listen", False), ("admin", False), ("sidecar", True)):
        address = getattr(registry.envoy, key)
        if unix and address.startswith("unix:/"):
            continue
        if not is_address(address):
            expected = "HOST:PORT or unix:/PATH" if unix else "HOST:PORT"
            raise source.error(f"envoy.{key}: {address!r} is no address (expected {expected})", "envoy", key)

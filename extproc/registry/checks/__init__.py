"""Cross-checks: what the schema cannot say about a registry.

One module per section. Each check raises ``RegistryError`` with the line and what was expected, or lets
the source collect the error and continues.
"""

from collections.abc import Mapping
from functools import partial

from extproc.registry.checks.cascade_checks import check_cascades
from extproc.registry.checks.clearance_checks import check_clearance
from extproc.registry.checks.llm_checks import check_llm
from extproc.registry.checks.model_checks import (
    check_cors,
    check_default,
    check_feedback,
    check_models,
    check_passthrough,
    check_paths,
    check_reference,
    check_unattended,
)
from extproc.registry.checks.route_checks import check_encoder, check_rollout, check_routes
from extproc.registry.checks.rule_checks import check_rules, check_trusted_headers
from extproc.registry.checks.safety_checks import check_safety
from extproc.registry.checks.shared_checks import is_address, plaintext_problem
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.yaml_source import Source


def check(registry: Registry, examples: Mapping[str, tuple[str, ...]], source: Source) -> None:
    """Run every cross-check. The source collects the mistakes."""
    checks = (
        check_models,
        check_default,
        check_unattended,
        check_passthrough,
        check_paths,
        check_cors,
        check_reference,
        check_cascades,
        partial(check_routes, examples=examples),
        check_trusted_headers,
        check_rules,
        check_clearance,
        check_safety,
        check_rollout,
        check_encoder,
        check_llm,
        check_feedback,
        _check_envoy,
    )
    for each in checks:
        with source.collecting():
            each(registry, source=source)


def _check_envoy(registry: Registry, source: Source) -> None:
    for key in ("listen", "admin"):
        address = getattr(registry.envoy, key)
        with source.collecting():
            if not is_address(address):
                raise source.error(
                    f"envoy.{key}: {address!r} is not a valid address (expected HOST:PORT)", "envoy", key
                )
    _check_sidecars(many(registry.envoy.sidecar), registry.envoy.sidecar_plaintext, source)


def _check_sidecars(addresses: list[str], plaintext: bool, source: Source) -> None:
    at = ("envoy", "sidecar")
    if not addresses:
        raise source.error("envoy.sidecar: expected at least one address", *at)
    for i, address in enumerate(addresses):
        with source.collecting():
            _check_sidecar(address, addresses[:i], plaintext, source, *at, i)
    if len({address.startswith("unix:/") for address in addresses}) > 1 and not source.is_unread(*at):
        raise source.error(
            "envoy.sidecar: expected only unix:/PATH addresses or only HOST:PORT addresses", *at
        )


def _check_sidecar(address: str, earlier: list[str], plaintext: bool, source: Source, *at: str | int) -> None:
    if not address.startswith("unix:/") and not is_address(address):
        raise source.error(
            f"envoy.sidecar: {address!r} is not a valid address (expected HOST:PORT or unix:/PATH)", *at
        )
    if problem := plaintext_problem(address, plaintext):
        raise source.error(f"envoy.sidecar: {problem}", *at)
    if address in earlier:
        raise source.error(f"envoy.sidecar: {address} is listed twice", *at)

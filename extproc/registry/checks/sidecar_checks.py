"""Checks of ``without_sidecar``."""

from collections.abc import Iterator

from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source
from extproc.vocabulary import Api

_APIS = ", ".join(Api)


def check_unattended(registry: Registry, source: Source) -> None:
    """``without_sidecar`` names only APIs that a model speaks. Raises ``RegistryError``."""
    if not isinstance(registry.without_sidecar, dict):
        return
    for name in registry.without_sidecar:
        if name not in set(Api):
            raise source.error(
                f"there is no API `{name}` (expected one of: {_APIS})", "without_sidecar", name
            )
        known = {api for model in registry.models.values() for api in model.speaks}
        if Api(name) not in known:
            raise source.error(
                f"no model speaks {name} (expected one of: {', '.join(sorted(known))})",
                "without_sidecar",
                name,
            )


def unattended_warnings(registry: Registry) -> Iterator[str]:
    """Warns of deny rules that nobody checks while no sidecar decides, unless ``without_sidecar`` is set."""
    rules = [rule.name for rule in registry.rules if rule.deny]
    open_apis = [api for api in registry.defaults if api not in registry.unattended]
    if not rules or not open_apis:
        return
    yield (
        f"only the sidecar checks deny rules ({', '.join(rules)}). While no sidecar decides, requests of "
        f"{', '.join(open_apis)} go to the default model unchecked. Write `without_sidecar: refuse` to "
        "answer them with 503 instead, or `without_sidecar: default` to accept this"
    )

"""Checks of ``without_sidecar``."""

from collections.abc import Iterator

from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source
from extproc.vocabulary import Api

_APIS = ", ".join(Api)


def check_unattended(registry: Registry, source: Source) -> None:
    """Every API that it names is one that some model speaks. Raises ``RegistryError``."""
    if not isinstance(registry.without_sidecar, dict):
        return
    for name in registry.without_sidecar:
        if name not in set(Api):
            raise source.error(f"there is no API `{name}` (expected of {_APIS})", "without_sidecar", name)
        spoken = {api for model in registry.models.values() for api in model.speaks}
        if Api(name) not in spoken:
            raise source.error(
                f"no model speaks {name} (expected of {', '.join(sorted(spoken))})",
                "without_sidecar",
                name,
            )


def unattended_warnings(registry: Registry) -> Iterator[str]:
    """What deny rules do not cover where ``without_sidecar`` is not written."""
    rules = [rule.name for rule in registry.rules if rule.deny]
    open_apis = [api for api in registry.defaults if api not in registry.unattended]
    if not rules or not open_apis:
        return
    yield (
        f"only the sidecar checks deny rules ({', '.join(rules)}). While no sidecar decides, requests of "
        f"{', '.join(open_apis)} go to the default model unchecked. Write `without_sidecar: refuse` to "
        "answer them with 503 instead, or `without_sidecar: default` to accept this"
    )

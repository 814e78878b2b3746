"""Checks of ``safety``."""

from extproc.registry.checks.shared_checks import check_trusted
from extproc.registry.safety_settings import ClassTerms
from extproc.registry.schema import Registry, cleared_for
from extproc.registry.yaml_source import Source
from extproc.vocabulary import SafetyAction


def check_safety(registry: Registry, source: Source) -> None:
    """There is something to look for, and somebody to answer what is guarded. Raises ``RegistryError``."""
    settings = registry.safety
    if settings is None:
        return
    with source.collecting():
        if not registry.safety_classes and settings.head is None and not source.is_unread("safety"):
            raise source.error(
                "safety: nothing is looked for (expected pii, secrets, templates or head)", "safety"
            )
    with source.collecting():
        if settings.pii is not None and not settings.pii.kinds and not source.is_unread("safety", "pii"):
            raise source.error("safety.pii.kinds: expected at least one kind", "safety", "pii", "kinds")
    for header in settings.exempt:
        with source.collecting():
            check_trusted(registry, header, source, "safety", "exempt", header)
    for name, terms in registry.safety_classes.items():
        with source.collecting():
            _check_action(registry, name, terms, source)


def _check_action(registry: Registry, name: str, terms: ClassTerms, source: Source) -> None:
    section, _, of_head = name.partition(".")
    at = ("safety", "head", "classes", of_head, "action") if of_head else ("safety", section, "action")
    if (of_head or name == "templates") and terms.action is SafetyAction.REDACT:
        raise source.error(
            f"safety.{name}: there is nothing to redact (expected allow, guard or refuse)", *at
        )
    cleared = cleared_for(registry).values()
    if terms.action is SafetyAction.GUARD and not any(terms.label in labels for labels in cleared):
        raise source.error(
            f"safety.{name}: no model is cleared for `{terms.label}`, so all these requests would be refused "
            "(expected a model with it in `cleared_for`, or `action: refuse`)",
            *at,
        )

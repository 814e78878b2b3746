"""Checks of ``safety``."""

from extproc.registry.checks.shared_checks import check_trusted
from extproc.registry.schema import Registry, cleared_for
from extproc.registry.yaml_source import Source
from extproc.vocabulary import SafetyAction


def check_safety(registry: Registry, source: Source) -> None:
    """There is something to look for, and somebody to answer what is guarded. Raises ``RegistryError``."""
    settings = registry.safety
    if settings is None:
        return
    with source.collecting():
        if not registry.safety_actions and not source.is_unread("safety"):
            raise source.error("safety: nothing is looked for (expected pii, secrets, or both)", "safety")
    with source.collecting():
        if settings.pii is not None and not settings.pii.kinds and not source.is_unread("safety", "pii"):
            raise source.error("safety.pii.kinds: expected at least one kind", "safety", "pii", "kinds")
    for header in settings.exempt:
        with source.collecting():
            check_trusted(registry, header, source, "safety", "exempt", header)
    for name, each in (("pii", settings.pii), ("secrets", settings.secrets)):
        if each is None or each.action is not SafetyAction.GUARD:
            continue
        with source.collecting():
            if not any(each.label in labels for labels in cleared_for(registry).values()):
                raise source.error(
                    f"safety.{name}: no model is cleared for `{each.label}`, so all these requests would be "
                    "refused (expected a model with it in `cleared_for`, or `action: refuse`)",
                    "safety", name, "action",
                )  # fmt: skip

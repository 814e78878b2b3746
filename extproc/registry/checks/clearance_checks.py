"""Checks of labels: of ``label`` in rules, of ``cleared_for`` in models, and of ``clearance``."""

import re
from collections.abc import Iterable

from extproc.registry.checks.shared_checks import check_trusted, known_model
from extproc.registry.schema import Registry, RuleSettings, cleared_for
from extproc.registry.section import many
from extproc.registry.yaml_source import Source
from extproc.routing.clearance import LONGEST_LABEL, clearances
from extproc.vocabulary import ModelName

_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_LABEL - 1}}}")
# Envoy gets its own route for each clearance, per route with fallbacks, model and API.
_MOST_CLEARANCES = 32


def check_clearance(registry: Registry, source: Source) -> None:
    """Labels are well formed, can be answered, and hold while no sidecar runs. Raises ``RegistryError``."""
    for name, model in registry.models.items():
        _check_names(many(model.cleared_for), source, "models", name, "cleared_for")
    for i, rule in enumerate(registry.rules):
        _check_names(many(rule.label), source, "rules", i, "label")
        with source.collecting():
            _check_answerable(registry, rule, source, i)
    for name, terms in registry.safety_classes.items():
        _check_names([terms.label], source, "safety", *name.split("."))
    _check_settings(registry, source)
    with source.collecting():
        _check_given(registry, source)
    with source.collecting():
        _check_number(registry, source)
    with source.collecting():
        _check_unattended(registry, source)


def given_labels(registry: Registry) -> frozenset[str]:
    """The labels that requests may carry, as far as the registry says."""
    by_rules = {label for rule in registry.rules for label in many(rule.label)} | registry.safety_labels
    by_header = frozenset().union(*cleared_for(registry).values()) if _has_header(registry) else frozenset()
    return by_header | by_rules


def _has_header(registry: Registry) -> bool:
    return registry.clearance is not None and bool(registry.clearance.header)


def _check_names(labels: Iterable[str], source: Source, *at: str | int) -> None:
    for label in labels:
        with source.collecting():
            if _LABEL.fullmatch(label) is None:
                raise source.error(
                    f"{label!r} is not a valid label (expected letters, digits, `.`, `_` and `-`, at most "
                    f"{LONGEST_LABEL})",
                    *at,
                )


def _check_answerable(registry: Registry, rule: RuleSettings, source: Source, i: int) -> None:
    """Some model may answer what the rule labels."""
    labels = frozenset(many(rule.label))
    if not labels or source.is_unread("models"):
        return
    cleared = [name for name, theirs in cleared_for(registry).items() if labels <= theirs]
    if not cleared:
        raise source.error(
            f"rule `{rule.name}`: no model is cleared for {', '.join(sorted(labels))} (expected a model with "
            "it in `cleared_for`; `deny` refuses requests)",
            "rules", i, "label",
        )  # fmt: skip
    if rule.model and rule.model in registry.models and rule.model not in cleared:
        raise source.error(
            f"rule `{rule.name}`: the model `{rule.model}` is not cleared for {', '.join(sorted(labels))} "
            f"(expected one of: {', '.join(cleared)})",
            "rules", i, "model",
        )  # fmt: skip
    route = registry.routes.get(rule.route)
    if route is not None and not any(ModelName(name) in cleared for name in many(route.candidates)):
        raise source.error(
            f"rule `{rule.name}`: no candidate of the route `{rule.route}` is cleared for "
            f"{', '.join(sorted(labels))} (expected one of these among its candidates: {', '.join(cleared)})",
            "rules", i, "route",
        )  # fmt: skip


def _check_settings(registry: Registry, source: Source) -> None:
    settings = registry.clearance
    if settings is None:
        return
    with source.collecting():
        if settings.header:
            check_trusted(registry, settings.header, source, "clearance", "header")
    for name in many(settings.default):
        with source.collecting():
            known_model(registry, name, source, "clearance", "default")
            if not registry.models[name].cleared_for and not source.is_unread("models", name, "cleared_for"):
                raise source.error(
                    f"the model `{name}` is cleared for no label (expected `cleared_for` in "
                    f"models.{name})",
                    "clearance", "default",
                )  # fmt: skip


def _check_given(registry: Registry, source: Source) -> None:
    """Something gives the labels that models are cleared for."""
    if _has_header(registry) or source.is_unread("rules") or source.is_unread("clearance"):
        return
    given = given_labels(registry)
    for name, labels in cleared_for(registry).items():
        for label in sorted(labels - given):
            raise source.error(
                f"nothing gives requests the label `{label}` (expected a rule with `label: {label}`, "
                "`safety`, or `clearance.header`)",
                "models", name, "cleared_for",
            )  # fmt: skip


def _check_number(registry: Registry, source: Source) -> None:
    number = len(clearances(cleared_for(registry)))
    if number > _MOST_CLEARANCES:
        raise source.error(
            f"the models are cleared for {number} different combinations of labels (expected at most "
            f"{_MOST_CLEARANCES}: Envoy has routes for each)",
            "models",
        )


def _check_unattended(registry: Registry, source: Source) -> None:
    """While no sidecar runs, nobody knows the labels, so a default must be cleared for all of them."""
    unread = any(source.is_unread(key) for key in ("without_sidecar", "models", "default"))
    if not registry.labels_requests or unread:
        return
    for api, default in registry.defaults.items():
        missing = given_labels(registry) - cleared_for(registry)[ModelName(default)]
        if registry.unattended.get(api) == "refuse" or not (missing or _has_header(registry)):
            continue
        raise source.error(
            f"while no sidecar decides, requests of {api} go to `{default}`, which is not cleared for "
            f"{', '.join(sorted(missing)) or 'every label that a header may contain'} "
            "(expected `without_sidecar: refuse`)",
            "default" if registry.without_sidecar is None else "without_sidecar",
        )

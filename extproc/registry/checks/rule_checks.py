"""Checks of ``rules`` and ``trusted_headers``."""

import re2

from extproc.registry.checks.shared_checks import (
    check_trusted,
    is_header_name,
    known_model,
    unknown,
)
from extproc.registry.schema import Registry, RuleSettings
from extproc.registry.section import many
from extproc.registry.yaml_source import Source
from extproc.routing.rules import regex_in_text


def check_rules(registry: Registry, source: Source) -> None:
    """Check names, actions and conditions. Raises ``RegistryError``."""
    names: set[str] = set()
    for i, rule in enumerate(registry.rules):
        with source.collecting():
            if rule.name in names:
                raise source.error(
                    f"rule `{rule.name}`: another rule has this name (expected unique names)",
                    "rules",
                    i,
                    "name",
                )
        names.add(rule.name)
        with source.collecting():
            _check_action(registry, rule, source, i)
        for check_condition in (_check_any, _check_bounds, _check_reads, _check_regex, _check_patterns):
            with source.collecting():
                check_condition(rule, source, i)
        _check_trust(registry, rule, source, i)


def _check_action(registry: Registry, rule: RuleSettings, source: Source, i: int) -> None:
    keys = ("deny", "route", "model")
    actions = [key for key in keys if getattr(rule, key)]
    unread = any(source.is_unread("rules", i, key) for key in (*keys, "label"))
    with source.collecting():
        if (len(actions) > 1 or (not actions and not rule.label)) and not unread:
            given = " and ".join(actions) or "none"
            raise source.error(
                f"rule `{rule.name}`: expected exactly one of deny, route, model, or a `label`; got {given}",
                "rules", i,
            )  # fmt: skip
        if rule.deny and rule.label:
            raise source.error(
                f"rule `{rule.name}`: a request that is denied needs no label (expected deny or label)",
                "rules", i, "label",
            )  # fmt: skip
    with source.collecting():
        if rule.model:
            known_model(registry, rule.model, source, "rules", i, "model")
    if rule.route and rule.route not in registry.routes:
        raise source.error(unknown("route", rule.route, registry.routes), "rules", i, "route")


def _check_any(rule: RuleSettings, source: Source, i: int) -> None:
    if rule.when == type(rule.when)() and not source.is_unread("rules", i, "when"):
        raise source.error(f"rule `{rule.name}`: expected at least one condition", "rules", i, "when")


def _check_bounds(rule: RuleSettings, source: Source, i: int) -> None:
    for least, most in (("min_chars", "max_chars"), ("min_bytes", "max_bytes")):
        low, high = getattr(rule.when, least), getattr(rule.when, most)
        with source.collecting():
            if low is not None and high is not None and low > high:
                raise source.error(f"{least} {low} is greater than {most} {high}", "rules", i, "when", least)


def _check_reads(rule: RuleSettings, source: Source, i: int) -> None:
    when = rule.when
    text = when.keyword or when.regex or when.min_chars is not None or when.max_chars is not None
    if rule.reads is not None and not text and not source.is_unread("rules", i, "when"):
        raise source.error(
            f"rule `{rule.name}` has `in` but no condition on text (expected keyword, regex, "
            "min_chars or max_chars)",
            "rules", i, "in",
        )  # fmt: skip


def _check_regex(rule: RuleSettings, source: Source, i: int) -> None:
    try:
        if rule.when.regex:
            regex_in_text(rule.when.regex)
    except re2.error as error:
        raise source.error(
            f"regex: {_text(error)} (expected RE2 syntax)", "rules", i, "when", "regex"
        ) from error


def _check_patterns(rule: RuleSettings, source: Source, i: int) -> None:
    for key in ("path", "model", "tool", "keyword"):
        with source.collecting():
            if not all(many(getattr(rule.when, key))):
                raise source.error(f"{key}: must not be empty", "rules", i, "when", key)


def _check_trust(registry: Registry, rule: RuleSettings, source: Source, i: int) -> None:
    for name in rule.when.header:
        with source.collecting():
            check_trusted(registry, name, source, "rules", i, "when", "header", name)


def check_trusted_headers(registry: Registry, source: Source) -> None:
    """Header names are valid, and Envoy does not remove them. Raises ``RegistryError``."""
    for i, name in enumerate(registry.trusted_headers):
        with source.collecting():
            if not is_header_name(name):
                raise source.error(f"{name!r} is not a valid header name", "trusted_headers", i)
            if name.lower().startswith("x-router-"):
                raise source.error(
                    f"`{name}` is reserved: Envoy removes x-router-* headers from every request",
                    "trusted_headers",
                    i,
                )


def _text(error: Exception) -> str:
    """The message of an RE2 error, whose arguments are bytes."""
    return " ".join(arg.decode() if isinstance(arg, bytes) else str(arg) for arg in error.args)

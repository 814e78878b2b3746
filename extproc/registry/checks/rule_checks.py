"""Checks of ``rules`` and ``trusted_headers``."""

import re2

from extproc.registry.checks.shared_checks import is_header_name, known_model, unknown
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
        with source.collecting():
            _check_when(registry, rule, source, i)


def _check_action(registry: Registry, rule: RuleSettings, source: Source, i: int) -> None:
    actions = [key for key in ("deny", "route", "model") if getattr(rule, key)]
    if len(actions) != 1:
        given = " and ".join(actions) or "none"
        raise source.error(
            f"rule `{rule.name}`: expected exactly one of deny, route, model; got {given}", "rules", i
        )
    if rule.model:
        known_model(registry, rule.model, source, "rules", i, "model")
    if rule.route and rule.route not in registry.routes:
        raise source.error(unknown("route", rule.route, registry.routes), "rules", i, "route")


def _check_when(registry: Registry, rule: RuleSettings, source: Source, i: int) -> None:
    when, at = rule.when, ("rules", i, "when")
    if when == type(when)():
        raise source.error(f"rule `{rule.name}`: expected at least one condition", *at)
    for least, most in (("min_chars", "max_chars"), ("min_bytes", "max_bytes")):
        low, high = getattr(when, least), getattr(when, most)
        if low is not None and high is not None and low > high:
            raise source.error(f"{least} {low} is greater than {most} {high}", *at, least)
    text = when.keyword or when.regex or when.min_chars is not None or when.max_chars is not None
    if rule.reads is not None and not text:
        raise source.error(
            f"rule `{rule.name}` has `in` but no condition on text (expected keyword, regex, "
            "min_chars or max_chars)",
            "rules", i, "in",
        )  # fmt: skip
    if when.regex:
        try:
            regex_in_text(when.regex)
        except re2.error as error:
            raise source.error(f"regex: {_text(error)} (expected RE2 syntax)", *at, "regex") from error
    for key in ("path", "model", "tool", "keyword"):
        if not all(many(getattr(when, key))):
            raise source.error(f"{key}: must not be empty", *at, key)
    trusted = {name.lower() for name in registry.trusted_headers}
    for name in when.header:
        if name.lower() not in trusted:
            raise source.error(
                f"clients could set the header `{name}` (expected one of trusted_headers: "
                f"{', '.join(sorted(trusted)) or 'none declared'})",
                *at, "header", name,
            )  # fmt: skip


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

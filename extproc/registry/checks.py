"""Cross-checks: what the schema cannot say about a registry.

One function per section; each raises ``RegistryError`` with the line and what was expected.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import re2

from extproc.registry.schema import MODEL_NAME, ROUTE_NAME, Model, Registry, Rule, many
from extproc.registry.source import Source
from extproc.routing.rules import regex_in_text
from extproc.routing.stages import AUTO

Examples = Mapping[str, tuple[str, ...]]


def check(registry: Registry, examples: Examples, source: Source) -> None:
    """Everything that ties one part of the registry to another. Raises ``RegistryError``."""
    _check_models(registry, source)
    _check_routes(registry, examples, source)
    _check_trusted_headers(registry, source)
    _check_rules(registry, source)
    _check_envoy(registry, source)


def _check_models(registry: Registry, source: Source) -> None:
    if not registry.models:
        raise source.error("expected at least one model", "models")
    for name, model in registry.models.items():
        if re.fullmatch(MODEL_NAME, name) is None:
            raise source.error(
                f"{name!r} is no model name (expected letters, digits and ._:/@-, at most 128)",
                "models",
                name,
            )
        if name == AUTO:
            raise source.error(f"`{AUTO}` is how clients ask to be routed: name the model otherwise",
                               "models", name)  # fmt: skip
        _check_base_url(name, model, source)
        _check_auth(name, model, source)
    _known_model(registry, registry.default, source, "default")


def _check_base_url(name: str, model: Model, source: Source) -> None:
    if not _is_http_origin(model.base_url):
        raise source.error(
            f"models.{name}.base_url: {model.base_url!r} is no base URL (expected http://HOST:PORT)",
            "models", name, "base_url",
        )  # fmt: skip


def _check_auth(name: str, model: Model, source: Source) -> None:
    auth, at = model.auth, ("models", name, "auth")
    if auth is None:
        return
    if bool(auth.env) == bool(auth.file):
        raise source.error(f"models.{name}.auth: expected exactly one of env, file", *at)
    if auth.env and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", auth.env) is None:
        raise source.error(
            f"models.{name}.auth.env: {auth.env!r} is no variable's name (expected a name, not the key)",
            *at, "env",
        )  # fmt: skip


def _check_routes(registry: Registry, examples: Examples, source: Source) -> None:
    written: dict[str, str] = {}
    for name in registry.routes:
        if re.fullmatch(ROUTE_NAME, name) is None:
            raise source.error(
                f"{name!r} is no route name (expected letters, digits and ._-, at most 64)", "routes", name
            )
        _check_candidates(registry, name, source)
        if not examples[name]:
            raise source.error(
                f"the route `{name}` is empty (expected `examples` or an `examples_file`)", "routes", name
            )
        for i, text in enumerate(examples[name]):
            other = written.setdefault(text, name)
            if other != name:
                raise source.error(
                    f"{text!r} is an example of both `{other}` and `{name}` (expected one route)",
                    "routes", name, "examples", i,
                )  # fmt: skip


def _check_candidates(registry: Registry, name: str, source: Source) -> None:
    candidates, at = many(registry.routes[name].candidates), ("routes", name, "candidates")
    if not candidates:
        raise source.error(f"the route `{name}` has no candidates (expected at least one model)", *at)
    for i, model in enumerate(candidates):
        _known_model(registry, model, source, *at, i)
        if model in candidates[:i]:
            raise source.error(f"the candidate `{model}` is named twice", *at, i)
    unpriced = [model for model in candidates if registry.models[model].price is None]
    if len(candidates) > 1 and unpriced:
        raise source.error(
            f"the cheapest of {', '.join(candidates)} cannot be told: "
            f"{', '.join(unpriced)} has no price (expected `price` in each of them)",
            *at,
        )


def _check_rules(registry: Registry, source: Source) -> None:
    names: set[str] = set()
    for i, rule in enumerate(registry.rules):
        if rule.name in names:
            raise source.error(
                f"the rule name `{rule.name}` is taken (expected unique names)", "rules", i, "name"
            )
        names.add(rule.name)
        _check_action(registry, rule, source, i)
        _check_when(registry, rule, source, i)


def _check_action(registry: Registry, rule: Rule, source: Source, i: int) -> None:
    actions = [key for key in ("deny", "route", "model") if getattr(rule, key)]
    if len(actions) != 1:
        given = " and ".join(actions) or "none"
        raise source.error(
            f"rule `{rule.name}`: expected exactly one of deny, route, model; got {given}", "rules", i
        )
    if rule.model:
        _known_model(registry, rule.model, source, "rules", i, "model")
    if rule.route and rule.route not in registry.routes:
        raise source.error(_unknown("route", rule.route, registry.routes), "rules", i, "route")


def _check_when(registry: Registry, rule: Rule, source: Source, i: int) -> None:
    when, at = rule.when, ("rules", i, "when")
    if when == type(when)():
        raise source.error(f"rule `{rule.name}`: expected at least one condition", *at)
    for least, most in (("min_chars", "max_chars"), ("min_bytes", "max_bytes")):
        low, high = getattr(when, least), getattr(when, most)
        if low is not None and high is not None and low > high:
            raise source.error(f"{least} {low} is more than {most} {high}", *at, least)
    if when.regex:
        try:
            regex_in_text(when.regex)
        except re2.error as error:
            raise source.error(f"regex: {_text(error)} (expected RE2 syntax)", *at, "regex") from error
    for key in ("path", "model", "tool", "keyword"):
        if not all(many(getattr(when, key))):
            raise source.error(f"{key}: expected text that is not empty", *at, key)
    trusted = {name.lower() for name in registry.trusted_headers}
    for name in when.header:
        if name.lower() not in trusted:
            raise source.error(
                f"the header `{name}` could come from a client (expected one of trusted_headers: "
                f"{', '.join(sorted(trusted)) or 'none declared'})",
                *at, "header", name,
            )  # fmt: skip


def _check_trusted_headers(registry: Registry, source: Source) -> None:
    for i, name in enumerate(registry.trusted_headers):
        if re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) is None:
            raise source.error(f"{name!r} is no header name", "trusted_headers", i)
        if name.lower().startswith("x-router-"):
            raise source.error(
                f"`{name}` is the router's own: Envoy removes x-router-* from every request",
                "trusted_headers",
                i,
            )


def _check_envoy(registry: Registry, source: Source) -> None:
    for key, unix in (("listen", False), ("admin", False), ("sidecar", True)):
        address = getattr(registry.envoy, key)
        if unix and address.startswith("unix:/"):
            continue
        if not _is_http_origin(f"http://{address}"):
            expected = "HOST:PORT or unix:/PATH" if unix else "HOST:PORT"
            raise source.error(f"envoy.{key}: {address!r} is no address (expected {expected})", "envoy", key)


def _known_model(registry: Registry, name: str, source: Source, *at: str | int) -> None:
    if name not in registry.models:
        raise source.error(_unknown("model", name, registry.models), *at)


def _unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    return f"there is no {kind} `{name}` (expected one of: {', '.join(known) or 'none declared'})"


def _is_http_origin(url: str) -> bool:
    """http://HOST:PORT and nothing after it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    return parts.scheme == "http" and bool(parts.hostname) and port is not None and port > 0 and plain


def _text(error: Exception) -> str:
    """re2 raises with bytes."""
    return " ".join(arg.decode() if isinstance(arg, bytes) else str(arg) for arg in error.args)

"""Checks of ``routes``."""

import re
from collections.abc import Mapping

from extproc.registry.checks.shared_checks import is_header_name, known_model
from extproc.registry.schema import ROUTE_NAME, Registry, RouteSettings
from extproc.registry.section import many
from extproc.registry.yaml_source import Source

# Those that frame a message, say where it goes, or prove who sends it.
_NOT_ADDED = frozenset(
    {
        "authorization", "api-key", "connection", "content-length", "host", "te", "trailer",
        "transfer-encoding", "upgrade", "x-api-key",
    }
)  # fmt: skip


def check_routes(registry: Registry, source: Source, examples: Mapping[str, tuple[str, ...]]) -> None:
    """Names, candidates, examples, policies. Raises ``RegistryError``."""
    for name, route in registry.routes.items():
        with source.collecting():
            _check_name(name, source)
        with source.collecting():
            _check_candidates(registry, name, source)
        with source.collecting():
            _check_fallback(registry, name, source)
        with source.collecting():
            _check_headers(name, route, source)
        with source.collecting():
            _check_not_empty(registry, name, examples, source)
    _check_examples(examples, source)


def _check_name(name: str, source: Source) -> None:
    if re.fullmatch(ROUTE_NAME, name) is None:
        raise source.error(
            f"{name!r} is no route name (expected letters, digits and ._-, at most 64)", "routes", name
        )


def _check_not_empty(
    registry: Registry, name: str, examples: Mapping[str, tuple[str, ...]], source: Source
) -> None:
    if any(source.is_mistaken("routes", name, key) for key in ("examples", "examples_file")):
        return  # what it holds is not known
    if not examples[name] and name not in [rule.route for rule in registry.rules]:
        raise source.error(
            f"the route `{name}` is empty (expected `examples` or an `examples_file`, or a rule that "
            "names it)",
            "routes", name,
        )  # fmt: skip


def _check_examples(examples: Mapping[str, tuple[str, ...]], source: Source) -> None:
    """No text is an example of two routes."""
    written: dict[str, str] = {}
    for name, texts in examples.items():
        for i, text in enumerate(texts):
            other = written.setdefault(text, name)
            with source.collecting():
                if other != name:
                    raise source.error(
                        f"{text!r} is an example of both `{other}` and `{name}` (expected one route)",
                        "routes", name, "examples", i,
                    )  # fmt: skip


def _check_candidates(registry: Registry, name: str, source: Source) -> None:
    candidates, at = many(registry.routes[name].candidates), ("routes", name, "candidates")
    if not candidates and registry.routes[name].cascade:
        return  # there is no such cascade: its tiers would be the candidates
    if not candidates:
        raise source.error(f"the route `{name}` has no candidates (expected at least one model)", *at)
    for i, model in enumerate(candidates):
        known_model(registry, model, source, *at, i)
        if model in candidates[:i]:
            raise source.error(f"the candidate `{model}` is named twice", *at, i)
    unpriced = [model for model in candidates if registry.models[model].price is None]
    if len(candidates) > 1 and unpriced:
        raise source.error(
            f"the cheapest of {', '.join(candidates)} cannot be told: "
            f"{', '.join(unpriced)} has no price (expected `price` in each of them)",
            *at,
        )


def _check_fallback(registry: Registry, name: str, source: Source) -> None:
    fallback, at = many(registry.routes[name].fallback), ("routes", name, "fallback")
    for i, model in enumerate(fallback):
        known_model(registry, model, source, *at, i)
        if model in fallback[:i]:
            raise source.error(f"the fallback `{model}` is named twice", *at, i)


def _check_headers(name: str, route: RouteSettings, source: Source) -> None:
    for key in ("request_headers", "response_headers"):
        for header, value in getattr(route, key).items():
            at = ("routes", name, key, header)
            if not is_header_name(header) or header.lower() in _NOT_ADDED:
                raise source.error(f"`{header}` is no header that can be added", *at)
            if header.lower().startswith("x-router-"):
                raise source.error(f"`{header}` is the router's own", *at)
            if any(ord(character) < 32 or ord(character) == 127 for character in value):
                raise source.error(f"the value of `{header}` holds control characters", *at)

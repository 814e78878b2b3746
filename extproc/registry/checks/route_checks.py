"""Checks of ``routes``, of ``rollout``, and of the headers that identify a user or a conversation."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from extproc.registry.checks.shared_checks import check_trusted, is_header_name, known_model
from extproc.registry.schema import ROUTE_NAME, Percent, Registry, RouteSettings
from extproc.registry.section import many
from extproc.registry.yaml_source import Source
from extproc.routing.languages import unread

_WITH_SIGN = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%")


def check_rollout(registry: Registry, source: Source) -> None:
    """Percentages are valid, and headers are trusted. Raises ``RegistryError``."""
    with source.collecting():
        _check_percent(registry.rollout, source, "rollout")
    for name, route in registry.routes.items():
        with source.collecting():
            if route.rollout is not None:
                _check_percent(route.rollout, source, "routes", name, "rollout")
    for key in ("rollout_key", "conversation_header"):
        header = getattr(registry, key)
        with source.collecting():
            if header:
                check_trusted(registry, header, source, key, subject=f"{key}: ")


def check_encoder(registry: Registry, source: Source) -> None:
    """A fast path has the static vectors that it reads. Raises ``RegistryError``."""
    model = registry.encoder.model
    if registry.fast_path is not None and model != "all-MiniLM-L6-v2":
        with source.collecting():
            raise source.error(
                f"fast_path: reads the static vectors of all-MiniLM-L6-v2, which {model} does not have "
                "(expected no `fast_path`, or `encoder: {model: all-MiniLM-L6-v2}`)",
                "fast_path",
            )


def language_warnings(registry: Registry, examples: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Warns of examples in languages that ``encoder.languages`` does not list."""
    read = registry.encoder.reads
    found = Counter(unread(text, read) for texts in examples.values() for text in texts)
    del found[""]
    if found:
        counts = ", ".join(f"{language}: {count}" for language, count in sorted(found.items()))
        yield (
            f"some examples are in languages that `encoder.languages` does not list ({counts}). Requests in "
            "these languages go to the default model. Add the languages to the list, or write "
            "`encoder: {languages: [any]}`"
        )


def share_of(percent: Percent) -> float:
    """Convert a percentage to a share of 1. Raises ``ValueError`` outside of 0 to 100."""
    if isinstance(percent, str):
        match = _WITH_SIGN.fullmatch(percent.strip())
        percent = float(match[1]) if match else -1.0
    if not 0 <= percent <= 100:
        raise ValueError(percent)
    return percent / 100


def _check_percent(percent: Percent, source: Source, *at: str) -> None:
    try:
        share_of(percent)
    except ValueError as error:
        raise source.error(
            f'{".".join(at)}: {percent!r} is not a percentage (expected 0 to 100, or text such as "10 %")',
            *at,
        ) from error


# Headers that frame the message, choose its destination or carry credentials.
_NOT_ADDED = frozenset(
    {
        "authorization", "api-key", "connection", "content-length", "host", "te", "trailer",
        "transfer-encoding", "upgrade", "x-api-key",
    }
)  # fmt: skip


def check_routes(registry: Registry, source: Source, examples: Mapping[str, tuple[str, ...]]) -> None:
    """Check names, candidates, examples and policies. Raises ``RegistryError``."""
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
            f"{name!r} is not a valid route name (expected letters, digits and ._-, at most 64)",
            "routes",
            name,
        )


def _check_not_empty(
    registry: Registry, name: str, examples: Mapping[str, tuple[str, ...]], source: Source
) -> None:
    if any(source.is_unread("routes", name, key) for key in ("examples", "examples_file")):
        return  # its examples are not known
    if not examples[name] and name not in [rule.route for rule in registry.rules]:
        raise source.error(
            f"the route `{name}` can never be chosen (expected `examples`, an `examples_file`, or a rule "
            "that names the route)",
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
                        f"{text!r} is an example of both `{other}` and `{name}` (expected it in one route)",
                        "routes", name, "examples", i,
                    )  # fmt: skip


def _check_candidates(registry: Registry, name: str, source: Source) -> None:
    candidates, at = many(registry.routes[name].candidates), ("routes", name, "candidates")
    if not candidates and (registry.routes[name].cascade or source.is_unread("routes", name, "cascade")):
        return  # the cascade does not exist or has no known model, which another check reports
    if not candidates:
        raise source.error(f"the route `{name}` has no candidates (expected at least one model)", *at)
    for i, model in enumerate(candidates):
        with source.collecting():
            known_model(registry, model, source, *at, i)
            if model in candidates[:i]:
                raise source.error(f"the candidate `{model}` is listed twice", *at, i)
    known = [model for model in dict.fromkeys(candidates) if model in registry.models]
    unpriced = [model for model in known if _has_no_price(registry, model, source)]
    if len(known) > 1 and unpriced:
        raise source.error(
            f"{', '.join(unpriced)} has no price, so the cheapest of {', '.join(known)} is unknown "
            "(expected `price` in each candidate)",
            *at,
        )


def _has_no_price(registry: Registry, model: str, source: Source) -> bool:
    return registry.models[model].price is None and not source.is_unread("models", model, "price")


def _check_fallback(registry: Registry, name: str, source: Source) -> None:
    fallback, at = many(registry.routes[name].fallback), ("routes", name, "fallback")
    for i, model in enumerate(fallback):
        with source.collecting():
            known_model(registry, model, source, *at, i)
            if model in fallback[:i]:
                raise source.error(f"the fallback `{model}` is listed twice", *at, i)


def _check_headers(name: str, route: RouteSettings, source: Source) -> None:
    for key in ("request_headers", "response_headers"):
        for header, value in getattr(route, key).items():
            with source.collecting():
                _check_header(header, value, source, "routes", name, key, header)


def _check_header(header: str, value: str, source: Source, *at: str) -> None:
    if not is_header_name(header):
        raise source.error(f"`{header}` is not a valid header name", *at)
    if header.lower() in _NOT_ADDED:
        raise source.error(
            f"`{header}` cannot be set here (expected a header without a meaning "
            "for the connection or the credentials)",
            *at,
        )
    if header.lower().startswith("x-router-"):
        raise source.error(f"`{header}` is reserved for the router (expected a name without x-router-)", *at)
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise source.error(f"the value of `{header}` has control characters (expected one line of text)", *at)

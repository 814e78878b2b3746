"""Checks of ``passthrough.paths`` and ``envoy.cors``."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from extproc.registry.checks.shared_checks import is_host
from extproc.registry.passthrough_list import opened, read, restrictions
from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source


def check_paths(registry: Registry, source: Source) -> None:
    """Patterns are valid, and none lets prompts pass unchecked by accident. Raises ``RegistryError``."""
    written = (registry.passthrough.paths if registry.passthrough else None) or []
    why = restrictions(registry)
    for i, text in enumerate(written):
        with source.collecting():
            _check_path(text, written[:i], why, source, i)


def _check_path(text: str, earlier: Sequence[str], why: Sequence[str], source: Source, i: int) -> None:
    at = ("passthrough", "paths", i)
    entry = read(text)
    if entry is None:
        raise source.error(
            f"{text!r} is not a valid path (expected [METHOD ]/PATH, or /PATH/* for all paths below it)",
            *at,
        )
    if text in earlier:
        raise source.error(f"{text!r} is listed twice", *at)
    if why and (prompts := opened(entry)):
        raise source.error(
            f"{text!r} would let prompts to {prompts} pass unchecked, although {why[0]} "
            "(expected a list of exact paths, such as POST /v1/embeddings)",
            *at,
        )


def check_cors(registry: Registry, source: Source) -> None:
    """Origins are written as browsers send them. Raises ``RegistryError``."""
    for i, origin in enumerate(registry.envoy.cors.origins if registry.envoy.cors else []):
        with source.collecting():
            if origin != "*" and not _is_origin(origin):
                raise source.error(
                    f"{origin!r} is not a valid origin (expected http(s)://HOST[:PORT] without a path, or *)",
                    "envoy", "cors", "origins", i,
                )  # fmt: skip


def _is_origin(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return (
        url.scheme in ("http", "https")
        and is_host(url.hostname or "")
        # Browsers send the host in lower case; Envoy compares byte for byte.
        and text == f"{url.scheme}://{host}" + (f":{port}" if port is not None else "")
    )

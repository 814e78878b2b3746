"""Checks that keys and certificates exist and can be used, before Envoy needs them."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.registry.model_settings import Auth, Upstream
from extproc.registry.schema import Registry


def key_problems(registry: Registry, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The problems of keys and of files with certificate authorities.

    These are warnings, because the files may be on another machine. Files are relative to ``directory``,
    that of the registry file. No message contains a key.
    """
    for where, upstream in _upstreams(registry):
        auth = upstream.auth
        if isinstance(auth, Auth):
            problem = (
                _in_environment(auth, environment)
                or _in_file(auth, directory)
                or _open_to_all(auth, directory)
            )
            yield from _located(where, problem)
        yield from _located(where, _authority(upstream, directory))


def missing_keys(registry: Registry, directory: Path) -> Iterator[str]:
    """The problems of key files alone, for a caller on the machine where Envoy runs."""
    for where, upstream in _upstreams(registry):
        if isinstance(upstream.auth, Auth):
            yield from _located(where, _in_file(upstream.auth, directory))


def _located(where: str, problem: str) -> Iterator[str]:
    if problem:
        yield f"{where}: {problem}"


def _upstreams(registry: Registry) -> Iterator[tuple[str, Upstream]]:
    for name, model in registry.models.items():
        yield f"models.{name}", model
    if registry.passthrough is not None:
        yield "passthrough", registry.passthrough


def _in_environment(auth: Auth, environment: Mapping[str, str]) -> str:
    if not auth.env:
        return ""
    key = environment.get(auth.env)
    if key is None:
        return f"the environment variable {auth.env} is not set, so Envoy has no key"
    return _unusable(f"${auth.env}", key.encode(errors="surrogateescape"))


def _in_file(auth: Auth, directory: Path) -> str:
    if not auth.file:
        return ""
    path = directory / auth.file
    try:
        return _unusable(str(path), path.read_bytes())
    except OSError as error:
        return f"cannot read the key file {path}: {error.strerror}"


def _open_to_all(auth: Auth, directory: Path) -> str:
    path = directory / auth.file
    if auth.file and path.is_file() and path.stat().st_mode & stat.S_IROTH:
        return f"every user can read the key file {path} (expected mode 0600)"
    return ""


def _authority(upstream: Upstream, directory: Path) -> str:
    path = directory / upstream.tls.ca_file
    if upstream.tls.ca_file and not path.is_file():
        return f"the file {path} in tls.ca_file does not exist, so Envoy rejects every certificate"
    return ""


def _unusable(where: str, key: bytes) -> str:
    """Why the key cannot be the value of a header; empty: it can."""
    bare = key.rstrip(b"\r\n")  # as Envoy reads it
    if not bare.strip():
        return f"{where} is empty, so Envoy answers every request with 503"
    if not all(33 <= byte < 127 for byte in bare):
        return f"{where} is not a valid key, so every request fails (expected one line of visible characters)"
    return ""

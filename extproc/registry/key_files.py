"""Whether keys and certificates are where the registry says, told before Envoy would stumble on it."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.registry.model_settings import Auth, Upstream
from extproc.registry.schema import Registry


def key_problems(registry: Registry, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with each key and each authority's file, in words; nothing for those that are good.

    They may be on another machine, which only the caller knows: so these are no errors. Files are
    relative to ``directory``, that of the registry file. Keys are never part of the words.
    """
    for where, upstream in _upstreams(registry):
        auth = upstream.auth
        if isinstance(auth, Auth):
            problem = (
                _in_environment(auth, environment)
                or _in_file(auth, directory)
                or _open_to_all(auth, directory)
            )
            yield from _told(where, problem)
        yield from _told(where, _authority(upstream, directory))


def missing_keys(registry: Registry, directory: Path) -> Iterator[str]:
    """What is wrong with key files that could not be used as they are; for who is where Envoy is."""
    for where, upstream in _upstreams(registry):
        if isinstance(upstream.auth, Auth):
            yield from _told(where, _in_file(upstream.auth, directory))


def _told(where: str, problem: str) -> Iterator[str]:
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
        return f"Envoy will have no key without ${auth.env} in its environment"
    return _unusable(f"${auth.env}", key.encode(errors="surrogateescape"))


def _in_file(auth: Auth, directory: Path) -> str:
    if not auth.file:
        return ""
    path = directory / auth.file
    try:
        return _unusable(str(path), path.read_bytes())
    except OSError as error:
        return f"Envoy will have no key: {path}: {error.strerror}"


def _open_to_all(auth: Auth, directory: Path) -> str:
    path = directory / auth.file
    if auth.file and path.is_file() and path.stat().st_mode & stat.S_IROTH:
        return f"{path} may be read by everybody (expected mode 0600)"
    return ""


def _authority(upstream: Upstream, directory: Path) -> str:
    path = directory / upstream.tls.ca_file
    if upstream.tls.ca_file and not path.is_file():
        return f"Envoy will trust nobody: there is no file {path}"
    return ""


def _unusable(where: str, key: bytes) -> str:
    """What makes a key no value of a header."""
    bare = key.rstrip(b"\r\n")  # as Envoy reads it
    if not bare.strip():
        return f"{where} is empty: every request will be a 503"
    if not all(33 <= byte < 127 for byte in bare):
        return f"{where} is no key (expected one line of visible characters): every request will fail"
    return ""

"""Whether keys and certificates are where the registry says, told before Envoy would stumble on it."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.registry.schema import Registry
from extproc.registry.upstreams import Auth, Upstream


def key_problems(registry: Registry, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with each key and each authority's file, in words; nothing for those that are good.

    They may be on another machine, which only the caller knows: so these are no errors. Files are
    relative to ``directory``, that of the registry file. Keys are never part of the words.
    """
    upstreams: dict[str, Upstream] = {f"models.{name}": model for name, model in registry.models.items()}
    if registry.passthrough is not None:
        upstreams["passthrough"] = registry.passthrough
    for where, upstream in upstreams.items():
        if isinstance(upstream.auth, Auth) and (problem := _problem(upstream.auth, directory, environment)):
            yield f"{where}: {problem}"
        authority = directory / upstream.tls.ca_file
        if upstream.tls.ca_file and not authority.is_file():
            yield f"{where}: Envoy will trust nobody: there is no file {authority}"


def _problem(auth: Auth, directory: Path, environment: Mapping[str, str]) -> str:
    if auth.env:
        key = environment.get(auth.env)
        if key is None:
            return f"Envoy will have no key without ${auth.env} in its environment"
        return _unusable(f"${auth.env}", key.encode(errors="surrogateescape"))
    path = directory / auth.file
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        return f"Envoy will have no key: {path}: {error.strerror}"
    open_to_all = f"{path} may be read by everybody (expected mode 0600)" if mode & stat.S_IROTH else ""
    return _unusable(str(path), content) or open_to_all


def _unusable(where: str, key: bytes) -> str:
    """What makes a key no value of a header: every request of its model would be a 503."""
    bare = key.rstrip(b"\r\n")  # as Envoy reads it
    if not bare.strip():
        return f"{where} is empty: every request will be a 503"
    if not all(33 <= byte < 127 for byte in bare):
        return f"{where} is no key (expected one line of visible characters): every request will fail"
    return ""

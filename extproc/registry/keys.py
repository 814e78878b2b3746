"""Whether the providers' keys are where the registry says, told before Envoy would stumble on it."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.registry.schema import Registry
from extproc.registry.upstreams import Auth, Upstream


def key_problems(registry: Registry, directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with each key, in words; nothing for keys that are as they should be.

    They may be on another machine, which only the caller knows: so these are no errors. Key files
    are relative to ``directory``, that of the registry file. Keys are never part of the words.
    """
    for where, auth in _auths(registry):
        if problem := _problem(auth, directory, environment):
            yield f"{where}: {problem}"


def _auths(registry: Registry) -> Iterator[tuple[str, Auth]]:
    upstreams: dict[str, Upstream] = {f"models.{name}": model for name, model in registry.models.items()}
    if registry.passthrough is not None:
        upstreams["passthrough"] = registry.passthrough
    for where, upstream in upstreams.items():
        if isinstance(upstream.auth, Auth):
            yield where, upstream.auth


def missing_keys(registry: Registry, directory: Path) -> Iterator[str]:
    """What is wrong with key files that could not be used as they are; for who is where Envoy is."""
    for where, auth in _auths(registry):
        path = directory / auth.file
        if auth.file and not (path.is_file() and path.read_text().strip()):
            yield f"{where}: {_problem(auth, directory, {})}"


def _problem(auth: Auth, directory: Path, environment: Mapping[str, str]) -> str:
    if auth.env:
        key = environment.get(auth.env)
        if key is None:
            return f"Envoy will have no key without ${auth.env} in its environment"
        return "" if key.strip() else f"${auth.env} is empty: every request will be a 401"
    path = directory / auth.file
    try:
        mode, key = path.stat().st_mode, path.read_text()
    except OSError as error:
        return f"Envoy will have no key: {path}: {error.strerror}"
    if not key.strip():
        return f"{path} is empty: every request will be a 401"
    return f"{path} may be read by everybody (expected mode 0600)" if mode & stat.S_IROTH else ""

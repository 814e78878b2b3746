"""Checks of ``models`` and of what names them: ``default``, ``without_sidecar``, ``reference``.

``passthrough`` and ``feedback`` are here too, because they have an address or a secret as models have.
"""

import re
from collections.abc import Iterator

from extproc.registry.checks.shared_checks import check_auth, is_address, is_host, known_model
from extproc.registry.model_settings import MODEL_NAME, Auth, Model, Upstream
from extproc.registry.schema import Registry
from extproc.registry.yaml_source import Source
from extproc.routing.stages import AUTO
from extproc.vocabulary import Api

_APIS = ", ".join(Api)


def check_models(registry: Registry, source: Source) -> None:
    """Check names, addresses and keys. Raises ``RegistryError``."""
    if not registry.models:
        raise source.error("expected at least one model", "models")
    for name, model in registry.models.items():
        with source.collecting():
            _check_model(name, model, source)
        with source.collecting():
            _check_upstream(model, source, "models", name)


def _check_model(name: str, model: Model, source: Source) -> None:
    if re.fullmatch(MODEL_NAME, name) is None:
        raise source.error(
            f"{name!r} is not a valid model name (expected letters, digits and ._:/@-, at most 128)",
            "models",
            name,
        )
    if name == AUTO:
        raise source.error(
            f"the name `{AUTO}` is reserved: clients send it to be routed (expected another name)",
            "models",
            name,
        )
    if len(set(model.apis)) < len(model.apis):
        raise source.error(f"models.{name}.apis: an API is listed twice", "models", name, "apis")


def check_passthrough(registry: Registry, source: Source) -> None:
    """Raises ``RegistryError``."""
    if registry.passthrough is not None:
        _check_upstream(registry.passthrough, source, "passthrough")


def check_default(registry: Registry, source: Source) -> None:
    """Each API that a model speaks needs a default model that speaks it. Raises ``RegistryError``."""
    if isinstance(registry.default, str):
        known_model(registry, registry.default, source, "default")
    else:
        for name, model in registry.default.items():
            if name not in set(Api):
                raise source.error(f"there is no API `{name}` (expected one of: {_APIS})", "default", name)
            known_model(registry, model, source, "default", name)
            if name not in registry.models[model].speaks:
                raise source.error(f"the model `{model}` does not speak {name}", "default", name)
    for name, speaker in registry.models.items():
        silent = [api for api in speaker.speaks if api not in registry.defaults]
        if silent:
            raise source.error(
                f"`{name}` speaks {silent[0]}, but this API has no default model "
                f"(expected `default: {{{silent[0]}: {name}, ...}}` with one model per API)",
                "default",
            )


def check_reference(registry: Registry, source: Source) -> None:
    """The model against which savings are computed exists and has a price. Raises ``RegistryError``."""
    if not registry.reference:
        return
    known_model(registry, registry.reference, source, "reference")
    if registry.models[registry.reference].price is None:
        raise source.error(
            f"the reference `{registry.reference}` has no price, so savings cannot be computed "
            f"(expected models.{registry.reference}.price)",
            "reference",
        )


def check_unattended(registry: Registry, source: Source) -> None:
    """``without_sidecar`` names only APIs that a model speaks. Raises ``RegistryError``."""
    if not isinstance(registry.without_sidecar, dict):
        return
    for name in registry.without_sidecar:
        if name not in set(Api):
            raise source.error(
                f"there is no API `{name}` (expected one of: {_APIS})", "without_sidecar", name
            )
        known = {api for model in registry.models.values() for api in model.speaks}
        if Api(name) not in known:
            raise source.error(
                f"no model speaks {name} (expected one of: {', '.join(sorted(known))})",
                "without_sidecar",
                name,
            )


def unattended_warnings(registry: Registry) -> Iterator[str]:
    """Warns of deny rules that nobody checks while no sidecar decides, unless ``without_sidecar`` is set."""
    rules = [rule.name for rule in registry.rules if rule.deny]
    open_apis = [api for api in registry.defaults if api not in registry.unattended]
    if not rules or not open_apis:
        return
    yield (
        f"only the sidecar checks deny rules ({', '.join(rules)}). While no sidecar decides, requests of "
        f"{', '.join(open_apis)} go to the default model unchecked. Write `without_sidecar: refuse` to "
        "answer them with 503 instead, or `without_sidecar: default` to accept this"
    )


def check_feedback(registry: Registry, source: Source) -> None:
    """The token of ``feedback`` has one source. Raises ``RegistryError``."""
    if registry.feedback is not None:
        check_auth(registry.feedback.token, source, "feedback", "token")


def _check_upstream(upstream: Upstream, source: Source, *at: str | int) -> None:
    where = ".".join(map(str, at))
    if not _is_base_url(upstream):
        raise source.error(
            f"{where}.base_url: {upstream.base_url!r} is not a valid base URL (expected http(s)://HOST[:PORT][/PATH])",
            *at, "base_url",
        )  # fmt: skip
    for i, endpoint in enumerate(upstream.endpoints):
        if not is_address(endpoint.address):
            raise source.error(
                f"{endpoint.address!r} is not a valid address (expected HOST:PORT)",
                *at,
                "endpoints",
                i,
                "address",
            )
        if endpoint.address in [other.address for other in upstream.endpoints[:i]]:
            raise source.error(f"the endpoint {endpoint.address} is listed twice", *at, "endpoints", i)
    if upstream.load_balancing == "random" and {endpoint.weight for endpoint in upstream.endpoints} - {1}:
        raise source.error(
            f"{where}: Envoy's random load balancing ignores weights (expected round_robin or "
            "least_request, or no weights)",
            *at, "load_balancing",
        )  # fmt: skip
    if upstream.health_check is not None and re.fullmatch(r"/[!-~]*", upstream.health_check.path) is None:
        raise source.error(
            f"{upstream.health_check.path!r} is not a valid path (expected /PATH)",
            *at,
            "health_check",
            "path",
        )
    if upstream.url.scheme == "http" and upstream.tls != type(upstream.tls)():
        raise source.error(
            f"{where}.tls needs an https base_url (expected https://..., got http://...)", *at, "tls"
        )
    if upstream.tls.server_name and not is_host(upstream.tls.server_name):
        raise source.error(
            f"{upstream.tls.server_name!r} is not a valid host name", *at, "tls", "server_name"
        )
    if isinstance(upstream.auth, Auth):
        check_auth(upstream.auth, source, *at, "auth", other="`passthrough`, or ")


def _is_base_url(upstream: Upstream) -> bool:
    try:
        url = upstream.url
        port = url.port
    except ValueError:
        return False
    return (
        re.fullmatch(r"[!-~]+", upstream.base_url) is not None  # Python's parser overlooks line breaks
        and url.scheme in ("http", "https")
        and is_host(url.hostname or "")
        and port != 0
        and not (url.query or url.fragment or "@" in url.netloc or url.netloc.endswith(":"))
        and re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", url.path) is not None
    )

"""Checks of ``models`` and of what names them: ``default``, ``without_sidecar``, ``reference``.

``passthrough`` and ``feedback`` are here too, because they have an address or a secret as models have.

Beside them: ``passthrough.paths`` and ``envoy.cors``.
"""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from extproc.registry.checks.shared_checks import check_auth, is_address, is_host, known_model
from extproc.registry.model_settings import MODEL_NAME, Auth, Model, Upstream
from extproc.registry.passthrough_list import opened, read, restrictions
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
            with source.collecting():
                _check_default_of(name, model, registry, source)
    _check_apis_answered(registry, source)


def _check_default_of(api: str, model: str, registry: Registry, source: Source) -> None:
    if api not in set(Api):
        raise source.error(f"there is no API `{api}` (expected one of: {_APIS})", "default", api)
    known_model(registry, model, source, "default", api)
    if api not in registry.models[model].speaks and not source.is_unread("models", model, "apis"):
        raise source.error(f"the model `{model}` does not speak {api}", "default", api)


def _check_apis_answered(registry: Registry, source: Source) -> None:
    default = registry.default
    answered = registry.models[default].speaks if isinstance(default, str) else default
    unread = isinstance(default, str) and source.is_unread("models", default, "apis")
    for name, speaker in registry.models.items():
        silent = [api for api in speaker.speaks if api not in answered]
        if silent and not unread and not source.is_unread("models", name, "apis"):
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
    unread = source.is_unread("models", registry.reference, "price")
    if registry.models[registry.reference].price is None and not unread:
        raise source.error(
            f"the reference `{registry.reference}` has no price, so savings cannot be computed "
            f"(expected models.{registry.reference}.price)",
            "reference",
        )


def check_unattended(registry: Registry, source: Source) -> None:
    """``without_sidecar`` names only APIs that a model speaks. Raises ``RegistryError``."""
    if isinstance(registry.without_sidecar, dict):
        for name in registry.without_sidecar:
            with source.collecting():
                _check_unattended(name, registry, source)


def _check_unattended(api: str, registry: Registry, source: Source) -> None:
    at = ("without_sidecar", api)
    if api not in set(Api):
        raise source.error(f"there is no API `{api}` (expected one of: {_APIS})", *at)
    known = {each for model in registry.models.values() for each in model.speaks}
    unread = any(source.is_unread("models", model, "apis") for model in registry.models)
    if api not in known and not unread:
        raise source.error(f"no model speaks {api} (expected one of: {', '.join(sorted(known))})", *at)


def unattended_warnings(registry: Registry) -> Iterator[str]:
    """Warns of what nothing refuses while no sidecar runs, unless ``without_sidecar`` is set."""
    rules = [rule.name for rule in registry.rules if rule.deny]
    rules += [f"safety.{name}" for name, each in registry.safety_classes.items() if each.action == "refuse"]
    open_apis = [api for api in registry.defaults if api not in registry.unattended]
    if not rules or not open_apis:
        return
    yield (
        f"only the sidecar refuses requests ({', '.join(rules)}). While no sidecar decides, requests of "
        f"{', '.join(open_apis)} go to the default model unchecked. Write `without_sidecar: refuse` to "
        "answer them with 503 instead, or `without_sidecar: default` to accept this"
    )


def check_feedback(registry: Registry, source: Source) -> None:
    """The token of ``feedback`` has one source. Raises ``RegistryError``."""
    if registry.feedback is not None:
        check_auth(registry.feedback.token, source, "feedback", "token")


def _check_upstream(upstream: Upstream, source: Source, *at: str | int) -> None:
    for each in (_check_base_url, _check_endpoints, _check_load_balancing, _check_health, _check_tls):
        with source.collecting():
            each(upstream, source, *at)
    if isinstance(upstream.auth, Auth):
        check_auth(upstream.auth, source, *at, "auth", other="`passthrough`, or ")


def _check_base_url(upstream: Upstream, source: Source, *at: str | int) -> None:
    if not _is_base_url(upstream):
        where = ".".join(map(str, at))
        raise source.error(
            f"{where}.base_url: {upstream.base_url!r} is not a valid base URL (expected http(s)://HOST[:PORT][/PATH])",
            *at, "base_url",
        )  # fmt: skip


def _check_endpoints(upstream: Upstream, source: Source, *at: str | int) -> None:
    addresses = [endpoint.address for endpoint in upstream.endpoints]
    for i, address in enumerate(addresses):
        with source.collecting():
            if not is_address(address):
                raise source.error(
                    f"{address!r} is not a valid address (expected HOST:PORT)", *at, "endpoints", i, "address"
                )
            if address in addresses[:i]:
                raise source.error(f"the endpoint {address} is listed twice", *at, "endpoints", i)


def _check_load_balancing(upstream: Upstream, source: Source, *at: str | int) -> None:
    if upstream.load_balancing == "random" and {endpoint.weight for endpoint in upstream.endpoints} - {1}:
        where = ".".join(map(str, at))
        raise source.error(
            f"{where}: Envoy's random load balancing ignores weights (expected round_robin or "
            "least_request, or no weights)",
            *at, "load_balancing",
        )  # fmt: skip


def _check_health(upstream: Upstream, source: Source, *at: str | int) -> None:
    if upstream.health_check is not None and re.fullmatch(r"/[!-~]*", upstream.health_check.path) is None:
        raise source.error(
            f"{upstream.health_check.path!r} is not a valid path (expected /PATH)",
            *at, "health_check", "path",
        )  # fmt: skip


def _check_tls(upstream: Upstream, source: Source, *at: str | int) -> None:
    with source.collecting():
        if upstream.base_url.startswith("http://") and upstream.tls != type(upstream.tls)():
            where = ".".join(map(str, at))
            raise source.error(
                f"{where}.tls needs an https base_url (expected https://..., got http://...)", *at, "tls"
            )
    if upstream.tls.server_name and not is_host(upstream.tls.server_name):
        raise source.error(
            f"{upstream.tls.server_name!r} is not a valid host name", *at, "tls", "server_name"
        )


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

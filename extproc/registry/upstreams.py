"""The registry's models: where each is, what it speaks, what it costs, and how Envoy gets there."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from extproc.registry.section import Positive, Seconds, Section
from extproc.vocabulary import Api

# Names end up in Envoy cluster names, header values, metric labels and file names.
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}"


class Price(Section, frozen=True):
    """US dollars per million tokens."""

    input: Annotated[float, Meta(ge=0.0)]
    output: Annotated[float, Meta(ge=0.0)]


class Auth(Section, frozen=True):
    """Where a secret is, for the one process that reads it: exactly one of the two.

    A provider's key is Envoy's to read, the token of ``feedback`` the sidecar's.
    """

    env: str = ""  # a variable of that process's own environment
    file: str = ""  # relative to the registry file


class Endpoint(Section, frozen=True):
    """One server of a pool."""

    address: str  # HOST:PORT
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1  # its share of the requests, beside the others'


class HealthCheck(Section, frozen=True):
    """Envoy asks each endpoint on its own; one that does not answer 200 gets no requests."""

    path: str = "/health"  # as vLLM, SGLang and TGI have it
    interval_s: Seconds = 5.0
    timeout_s: Seconds = 2.0
    unhealthy_after: Positive = 2  # failures in a row
    healthy_after: Positive = 1  # successes in a row


class OutlierEjection(Section, frozen=True):
    """An endpoint whose answers fail gets no requests for a while."""

    after: Positive = 5  # 5xx answers, resets or refused connections in a row
    for_s: Seconds = 30.0  # the first time; each further time in a row adds as much


class Tls(Section, frozen=True):
    """How the provider proves who it is, for https."""

    ca_file: str = ""  # relative to the registry file; empty: what the system trusts
    server_name: str = ""  # empty: base_url's host


class Upstream(Section, frozen=True):
    """A server, or a pool of equal ones, behind one base URL."""

    base_url: str  # http(s)://HOST[:PORT][/PATH]: PATH stands in place of the API's own /v1
    auth: Auth | Literal["passthrough"] | None = None  # passthrough: the client's own credentials
    endpoints: list[Endpoint] = []  # where base_url's servers are; none: at its host and port
    load_balancing: Literal["least_request", "round_robin", "random"] = "least_request"
    health_check: HealthCheck | None = None
    outlier_ejection: OutlierEjection | None = None
    max_requests: Positive | None = None  # at once; one more fails, and does not wait. None: any number
    tls: Tls = Tls()

    @property
    def url(self) -> SplitResult:
        """``base_url`` in its parts."""
        return urlsplit(self.base_url)

    @property
    def addresses(self) -> Mapping[str, int]:
        """Where to connect to, ``HOST:PORT``, each with its weight."""
        if self.endpoints:
            return {endpoint.address: endpoint.weight for endpoint in self.endpoints}
        url = self.url
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return {f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}": 1}

    @property
    def path(self) -> str:
        """What stands in place of the ``/v1`` that clients ask for."""
        return self.url.path.rstrip("/") or "/v1"


class Model(Upstream, frozen=True):
    """One model behind one provider. Its key in ``models`` is the name clients may pin."""

    name: str = ""  # what the provider calls it; empty: the public name
    provider: Annotated[str, Meta(min_length=1)] = "openai"  # gen_ai.provider.name on spans and records
    apis: list[Api] = []  # what it speaks; empty: what its provider is known for
    pin: bool = True  # may a client choose it by its public name?
    price: Price | None = None
    context_window: Positive | None = None  # tokens of prompt and answer; None: takes any request

    @property
    def speaks(self) -> tuple[Api, ...]:
        """The APIs it speaks."""
        return tuple(self.apis) or self._dialect.apis

    @property
    def key_header(self) -> "KeyHeader":
        """How its provider wants its key."""
        return self._dialect.key

    @property
    def _dialect(self) -> "_Dialect":
        return _DIALECTS.get(self.provider, _OPENAI)


class Passthrough(Upstream, frozen=True):
    """Where requests go that are not LLM calls, unread and unchanged."""

    # Each `[METHOD ]/PATH`, or `/PATH/*` for all paths below it; see ``registry.passing``. None: every
    # path, or ``passing.DEFAULT`` where rules or models restrict requests.
    paths: list[str] | None = None


class KeyHeader(msgspec.Struct, frozen=True):
    """The header that carries a key, and what stands before the key in it."""

    name: str
    prefix: str = ""


class _Dialect(msgspec.Struct, frozen=True):
    """What is known of a provider by its name."""

    apis: tuple[Api, ...]
    key: KeyHeader


BEARER: Final = KeyHeader("authorization", "Bearer ")
_OPENAI: Final = _Dialect((Api.OPENAI_CHAT,), BEARER)
# By the well-known values of gen_ai.provider.name; all others are taken to do as OpenAI does.
_DIALECTS: Final[Mapping[str, _Dialect]] = {
    "openai": _Dialect((Api.OPENAI_CHAT, Api.OPENAI_COMPLETIONS, Api.OPENAI_RESPONSES), BEARER),
    "anthropic": _Dialect((Api.ANTHROPIC_MESSAGES,), KeyHeader("x-api-key")),
    "azure.ai.openai": _Dialect((Api.OPENAI_CHAT, Api.OPENAI_RESPONSES), KeyHeader("api-key")),
}

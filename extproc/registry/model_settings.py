"""The registry's models: where each is, what it speaks, what it costs, and how Envoy gets there."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from extproc.registry.section import OneOrMany, Positive, Seconds, Section
from extproc.vocabulary import Api

# Names end up in Envoy cluster names, header values, metric labels and file names.
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}"


class PriceSettings(Section, frozen=True):
    """US dollars per million tokens."""

    example: ClassVar[str] = "{input: 0.1, output: 0.3}"

    input: Annotated[float, Meta(ge=0.0)]  # price of a million tokens of the prompt
    output: Annotated[float, Meta(ge=0.0)]  # price of a million tokens of the answer


class Auth(Section, frozen=True):
    """Where a secret is: exactly one of ``env`` and ``file``.

    Envoy reads the key of a provider. The sidecar reads the token of ``feedback``.
    """

    example: ClassVar[str] = "{env: NAME_OF_A_VARIABLE}"

    env: str = ""  # a variable of the environment of the process that reads the secret
    file: str = ""  # a file with the bare secret, mode 0600; relative to the registry file


class Endpoint(Section, frozen=True):
    """One server of a pool."""

    address: str  # HOST:PORT
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1  # share of the requests, relative to the other endpoints


class HealthCheck(Section, frozen=True):
    """Envoy checks each endpoint. One that does not answer 200 gets no requests."""

    path: str = "/health"  # the path that is requested; vLLM, SGLang and TGI have `/health`
    interval_s: Seconds = 5.0  # seconds between two checks
    timeout_s: Seconds = 2.0  # seconds that a check may take
    unhealthy_after: Positive = 2  # failures in a row until an endpoint is out
    healthy_after: Positive = 1  # successes in a row until it is in again


class OutlierEjection(Section, frozen=True):
    """An endpoint whose answers fail gets no requests for a while."""

    after: Positive = 5  # 5xx answers, resets or refused connections in a row until it is out
    for_s: Seconds = 30.0  # seconds that it is out; each further time in a row adds as many


class Tls(Section, frozen=True):
    """How Envoy checks the certificate of an https provider."""

    ca_file: str = ""  # trust this authority; relative to the registry file (default: the system's)
    server_name: str = ""  # the name in the certificate, and in SNI (default: the host of base_url)


class Upstream(Section, frozen=True):
    """A server, or a pool of equal ones, behind one base URL."""

    base_url: str  # http(s)://HOST[:PORT][/PATH]; PATH replaces the /v1 that clients ask for
    # The provider's key. `passthrough` sends the client's own credentials. (default: no key)
    auth: Auth | Literal["passthrough"] | None = None
    endpoints: list[Endpoint] = []  # the servers behind base_url (default: its host and port)
    # How Envoy picks an endpoint. `least_request` takes the less busy of two random ones.
    load_balancing: Literal["least_request", "round_robin", "random"] = "least_request"
    health_check: HealthCheck | None = None  # active checks of each endpoint (default: off)
    outlier_ejection: OutlierEjection | None = None  # removes endpoints whose answers fail (default: off)
    # Greatest number of requests at the same time. One more fails at once, for a fallback or the next
    # tier. (default: no bound)
    max_requests: Positive | None = None
    tls: Tls = Tls()  # how the certificate is checked, for https

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

    name: str = ""  # the provider's name of the model (default: the public name)
    provider: Annotated[str, Meta(min_length=1)] = "openai"  # gen_ai.provider.name on spans and records
    apis: list[Api] = []  # APIs that the model speaks (default: those known of its provider)
    pin: bool = True  # whether a client may choose the model by its public name
    price: PriceSettings | None = None  # needed to compare candidates and to report costs
    # Tokens of prompt and answer together. A longer request goes to another candidate. (default: no
    # bound)
    context_window: Positive | None = None
    # Labels of requests that it may answer. A request with any other label never reaches it.
    cleared_for: OneOrMany = []

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

    # The requests that pass: `[METHOD ]/PATH`, or `[METHOD ]/PATH/*` for all paths below it. (default:
    # every path, or only token counts and stored responses where rules or models restrict requests)
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

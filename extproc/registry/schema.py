"""The registry's YAML schema: what an operator may write, with its defaults.

Every struct refuses unknown keys. ``registry.loading`` reads files into these types and
cross-checks them; ``registry.compiling`` compiles them into what serving uses.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, field

from extproc.registry.cascades import Cascade, Retry
from extproc.registry.gates import Gate
from extproc.registry.section import Count, Fraction, OneOrMany, Points, Positive, Seconds, Section
from extproc.registry.upstreams import Auth, Model, Passthrough
from extproc.vocabulary import Api, Effort, Mode, Scope

ROUTE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Percent = float | str  # 10, or "10 %"; checked in ``checks.rollout``
Unattended = Literal["default", "refuse"]


class RouteThresholds(Section, frozen=True):
    """Floors of one route; one that is absent is the registry's."""

    margin: Fraction | None = None
    similarity: Fraction | None = None


class Route(Section, frozen=True):
    """One kind of request, told by examples, the models that may answer it, and how they are asked."""

    # The cheapest that can take the request answers it; of a cascade, it is where that begins.
    candidates: OneOrMany = []  # none: all tiers of the cascade
    quality_bar: Fraction | None = None  # of those whose predicted quality reaches it; else the strongest
    examples: list[Annotated[str, Meta(min_length=1)]] = []
    examples_file: str = ""  # one example a line; relative to the registry file
    thresholds: RouteThresholds = RouteThresholds()
    description: str = ""
    timeout_s: Seconds | None = None  # until a model begins to answer; None: as long as it takes
    retry: Retry | None = None
    fallback: OneOrMany = []  # models asked in this order when the chosen one fails
    cascade: str = ""  # of `cascades`: whose tiers are asked from the chosen one on
    request_headers: dict[str, str] = {}  # added to what the provider gets
    response_headers: dict[str, str] = {}  # added to what the client gets
    max_tokens: Positive | None = None  # the client's limit for the answer is lowered to this
    reasoning: Effort | None = None  # how much the model should reason; None: as the client wishes
    mode: Mode | None = None  # None: the registry's
    rollout: Percent | None = None  # of its requests that are obeyed; None: the registry's

    @property
    def has_envoy_policy(self) -> bool:
        """Whether Envoy must treat this route's requests otherwise than any others."""
        return bool(
            self.timeout_s or self.retry or self.asks_in_turn or self.request_headers or self.response_headers
        )

    @property
    def asks_in_turn(self) -> bool:
        """Whether other models may be asked should the chosen one fail, or not be good enough."""
        return bool(self.fallback or self.cascade)


class When(Section, frozen=True):
    """Conditions of a rule: all that are given must hold; within a list, any may."""

    path: OneOrMany = []  # shell pattern over the path without its query
    model: OneOrMany = []  # shell pattern over the model name the client sent
    tool: OneOrMany = []  # shell pattern over the names of the offered tools
    keyword: OneOrMany = []  # whole words or phrases in the text, any case
    regex: str = ""  # RE2 syntax, searched in the text
    min_chars: Count | None = None  # of the text
    max_chars: Count | None = None
    min_bytes: Count | None = None  # of the body
    max_bytes: Count | None = None
    images: bool | None = None  # does the latest user turn carry images or other media?
    header: dict[str, OneOrMany] = {}  # exact values; names must be in trusted_headers


class Rule(Section, frozen=True):
    """When ``when`` holds: exactly one of deny, route, model."""

    name: str
    when: When
    # What keyword, regex, min_chars and max_chars read; None: `all_user` with deny, else `latest_user`.
    reads: Scope | None = field(default=None, name="in")
    deny: str = ""  # the message of the error that the client gets
    route: str = ""
    model: str = ""


class Scorer(Section, frozen=True):
    """How an embedding is turned into a probability per route."""

    # The sharpest of the three from five examples a route on; see benchmarks/RESULTS.md.
    kind: Literal["centroid", "prototypes", "logistic"] = "logistic"
    prototypes: Positive = 4  # per route, for kind: prototypes


class FastPath(Section, frozen=True):
    """Decide by the words alone where these are enough. Needs an artefact that was trained for it."""

    # Of the requests it would decide, the share that is embedded all the same, to compare.
    sample: Annotated[float, Meta(gt=0, le=1)] = 0.05
    min_agreement: Fraction = 0.98  # with the encoder; surely below it, the fast path ends


DEFAULT_MARGIN = 0.1
DEFAULT_SIMILARITY = 0.3


class Thresholds(Section, frozen=True):
    """Floors below which a request abstains to the default model.

    One that is absent is the artefact's, which were learnt, else ``DEFAULT_MARGIN`` or
    ``DEFAULT_SIMILARITY``.
    """

    margin: Fraction | None = None  # probability of the best route less that of the second
    similarity: Fraction | None = None  # cosine to the nearest example


class Encoder(Section, frozen=True):
    """The embedding model and where it runs."""

    model: Literal["all-MiniLM-L6-v2"] = "all-MiniLM-L6-v2"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA when it works, else the CPU
    precision: Literal["auto", "int8", "fp16", "fp32"] = "auto"  # auto: int8 on CPU, fp16 on CUDA
    max_tokens: Annotated[int, Meta(ge=8, le=512)] = 128  # longer texts are cut to this
    threads: Count = 0  # inference threads; 0: half of the cores, at most 4
    queue: Positive = 256  # requests that may wait for the encoder, however fast it is; more are shed


class Feedback(Section, frozen=True):
    """Opinions on answers, by POST /v1/router/feedback through Envoy."""

    token: Auth  # by which clients may give it; the sidecar reads it, and nobody else


class Telemetry(Section, frozen=True):
    """Which traces are worth their spans. Records and metrics know every exchange all the same."""

    # An exchange always has its span; the spans of its steps and of the call are kept for this
    # share of the traces, and for every exchange that is worth a look.
    trace_share: Fraction = 0.1
    low_margin: Fraction = 0.2  # a decision by a margin below this is worth a look


class Cors(Section, frozen=True):
    """Web pages that may call the API from a browser. Envoy answers their preflight requests."""

    origins: Annotated[list[str], Meta(min_length=1)]  # https://HOST[:PORT], or `*` for any
    max_age_s: Annotated[int, Meta(ge=0, le=86_400)] = 600  # how long a browser keeps a preflight's answer


class Envoy(Section, frozen=True):
    """What the generated Envoy configuration binds and how it behaves."""

    listen: str = "127.0.0.1:10000"
    admin: str = "127.0.0.1:9901"
    # Where Envoy finds each `extproc serve`: unix:/PATH or HOST:PORT.
    sidecar: OneOrMany = "unix:/run/extproc/sidecar.sock"
    sidecar_plaintext: bool = False  # a HOST:PORT may be other than loopback: it is not encrypted
    # By name or number: may reach the unix sockets beside their owner. Empty: nobody may.
    socket_group: str | Count = ""
    # Where gates ask for second answers, if any gate does: unix:/PATH, or a port of loopback.
    egress: str = "unix:/run/extproc/egress.sock"
    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    # Of all bodies that a sidecar reads at a time; more wait, at most `Registry.transfer_s`.
    max_bytes_in_flight: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    response_headers: bool = True  # x-router-* on answers
    upstream_timeout_s: Seconds = 600.0  # how long an answer may be silent
    cors: Cors | None = None  # None: a preflight request is like any other
    # A file that Envoy writes outcomes to as well, relative to the registry file: unlike what it
    # sends to sidecars, none is lost when they are down. Empty: none.
    access_log: str = ""


class Holdout(Section, frozen=True):
    """Labelled rows that a version must route well enough before it decides."""

    data: str  # JSON lines, as for `extproc eval`; relative to the registry file
    min_accuracy: Fraction  # of the rows, abstaining included
    max_worse: Points | None = None  # below the version that serves, on the same rows; None: any


# A busy machine of two cores moves and reads bodies at five times this rate.
_TRANSFER_BYTES_PER_S = 8 * 1024 * 1024
_LEAST_TRANSFER_S = 0.25


class Registry(Section, frozen=True):
    """The whole file."""

    models: dict[str, Model]
    # Answers when nothing else was decided, and when the sidecar is down: one model, or one per API.
    default: str | dict[str, str]
    # What becomes of a request that no sidecar has decided: the API's default answers, or it is a 503. One
    # choice, or one per API; None: the default answers, and `extproc validate` asks where deny rules exist.
    without_sidecar: Unattended | dict[str, Unattended] | None = None
    passthrough: Passthrough | None = None  # for what is no LLM call; None: it is a 404
    routes: dict[str, Route] = {}
    cascades: dict[str, Cascade] = {}
    gates: dict[str, Gate] = {}  # what the answers of a tier must pass
    rules: list[Rule] = []
    reference: str = ""  # the model that savings are told against; empty: none are told
    unknown_models: Literal["route", "reject"] = "route"
    deny_status: Literal[400, 403] = 400  # of the answer when a deny rule matches
    trusted_headers: list[str] = []  # request headers that Envoy sets, so rules may use them
    scorer: Scorer = Scorer()
    artefact: str = (
        ""  # a directory from `extproc train`, relative to the registry file; serves, not `scorer`
    )
    fast_path: FastPath | None = None  # None: every text that no rule decides is embedded
    thresholds: Thresholds = Thresholds()
    holdout: Holdout | None = None  # None: every version without a mistake decides
    encoder: Encoder = Encoder()
    # ask: streams tell their token usage, in one more chunk that the client sees too.
    stream_usage: Literal["leave", "ask"] = "leave"
    decision_ms: Annotated[int, Meta(ge=1, le=10_000)] = 200  # the whole decision's budget
    mode: Mode = Mode.ACTIVE  # observe: requests are decided and recorded as if, and nothing is changed
    rollout: Percent = 100.0  # of the requests that are obeyed; the others are observed
    rollout_key: str = ""  # a trusted header: whose requests are in or out together
    conversation_header: str = ""  # a trusted header: the conversation that a request is of
    telemetry: Telemetry = Telemetry()
    feedback: Feedback | None = None  # None: /v1/router/feedback is a 404
    envoy: Envoy = Envoy()

    @property
    def transfer_s(self) -> float:
        """Seconds that the largest body may take on its way into the sidecar, or wait before it."""
        return max(_LEAST_TRANSFER_S, self.envoy.max_body_bytes / _TRANSFER_BYTES_PER_S)

    @property
    def defaults(self) -> Mapping[Api, str]:
        """The default model of each API; an API that is not there is spoken by no model."""
        if isinstance(self.default, str):
            return dict.fromkeys(self.models[self.default].speaks, self.default)
        return {Api(api): model for api, model in self.default.items()}

    @property
    def unattended(self) -> Mapping[Api, Unattended]:
        """The choices of ``without_sidecar`` that are written, by API."""
        if isinstance(self.without_sidecar, str):
            return dict.fromkeys(self.defaults, self.without_sidecar)
        return {Api(api): choice for api, choice in (self.without_sidecar or {}).items()}

    @property
    def refusing(self) -> frozenset[Api]:
        """The APIs whose requests are refused unless a sidecar has checked them.

        None of them while the mode is observe, which lets pass even what deny rules name.
        """
        if self.mode is Mode.OBSERVE:
            return frozenset()
        return frozenset(api for api, choice in self.unattended.items() if choice == "refuse")


def cluster_name(model: str) -> str:
    """The Envoy cluster that serves a registry model; the one place that knows the scheme."""
    return f"model-{model}"

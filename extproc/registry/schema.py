"""The registry's YAML schema: what an operator may write, with its defaults.

Every struct refuses unknown keys. ``registry.registry_loading`` reads files into these types and
cross-checks them; ``registry.snapshot_compiling`` compiles them into what serving uses.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, field

from extproc.registry.cascade_settings import Cascade, Gate, Retry
from extproc.registry.model_settings import Auth, Model, Passthrough
from extproc.registry.safety_settings import ClassTerms, SafetySettings
from extproc.registry.section import Count, Fraction, OneOrMany, Points, Positive, Seconds, Section, many
from extproc.vocabulary import Api, ClusterName, Effort, Mode, ModelName, SafetyAction, Scope

ROUTE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

# 10, or "10 %". ``checks.route_checks`` checks it; what is added here is for editors.
Percent = (
    Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 100})]
    | Annotated[str, Meta(extra_json_schema={"pattern": r"^\s*[0-9]{1,3}(\.[0-9]{1,9})? ?%\s*$"})]
)
Unattended = Literal["default", "refuse"]


class RouteThresholds(Section, frozen=True):
    """Floors of one route. A floor that is absent is the registry's."""

    margin: Fraction | None = None  # least margin to the second route (default: the registry's)
    in_scope: Fraction | None = None  # least probability of belonging to any route (default: the registry's)
    similarity: Fraction | None = None  # least cosine to the nearest example (default: the registry's)


class RouteSettings(Section, frozen=True):
    """One kind of request: examples of it, the models that may answer it, and the policies for the call."""

    # Models that may answer. The cheapest that can take the request is chosen; with a cascade, it is the
    # tier where the request begins. Empty: all tiers of the cascade.
    candidates: OneOrMany = []
    # Least predicted quality: the cheapest candidate that reaches it is chosen, else the strongest. Needs
    # an `artefact` from `extproc train --outcomes`. (default: the cheapest candidate)
    quality_bar: Fraction | None = None
    examples: list[Annotated[str, Meta(min_length=1)]] = []  # texts of users that belong to this route
    examples_file: str = ""  # a file with one example per line; relative to the registry file
    thresholds: RouteThresholds = RouteThresholds()  # floors of this route
    description: str = ""  # what belongs to this route, for people and for the LLM that `llm` asks in doubt
    # Seconds until a model begins to answer. It never cuts a stream. (default: envoy.upstream_timeout_s)
    timeout_s: Seconds | None = None
    retry: Retry | None = None  # asks the same model again before its failure counts (default: no retry)
    fallback: OneOrMany = []  # models to ask, in this order, when the chosen one fails
    cascade: str = ""  # the name of a cascade; its tiers are asked from the chosen one on
    request_headers: dict[str, str] = {}  # headers added to the request that the provider gets
    response_headers: dict[str, str] = {}  # headers added to the answer that the client gets
    max_tokens: Positive | None = None  # upper bound for the client's own limit (default: no bound)
    reasoning: Effort | None = None  # how much the model should reason (default: the client's choice)
    mode: Mode | None = None  # whether decisions for this route are obeyed (default: the registry's mode)
    rollout: Percent | None = None  # percent of its requests that are obeyed (default: the registry's)

    @property
    def has_envoy_policy(self) -> bool:
        """Whether the route has a policy that Envoy applies."""
        return bool(
            self.timeout_s or self.retry or self.asks_in_turn or self.request_headers or self.response_headers
        )

    @property
    def asks_in_turn(self) -> bool:
        """Whether other models may be asked when the chosen one fails or its answer is not good enough."""
        return bool(self.fallback or self.cascade)


class When(Section, frozen=True):
    """Conditions of a rule. All of them must hold; within a list, one is enough."""

    path: OneOrMany = []  # shell pattern for the path, without its query
    model: OneOrMany = []  # shell pattern for the model name that the client sent
    tool: OneOrMany = []  # shell pattern for the name of a tool that the request offers
    keyword: OneOrMany = []  # whole words or phrases in the text, in any case
    regex: str = ""  # regular expression in RE2 syntax, searched in the text
    min_chars: Count | None = None  # least number of characters of the text
    max_chars: Count | None = None  # greatest number of characters of the text
    min_bytes: Count | None = None  # least size of the request body
    max_bytes: Count | None = None  # greatest size of the request body
    images: bool | None = None  # whether the latest user turn has images or other media
    header: dict[str, OneOrMany] = {}  # exact values of headers; each name must be in trusted_headers


class RuleSettings(Section, frozen=True):
    """A deterministic decision, when ``when`` holds: exactly one of ``deny``, ``route`` and ``model``.

    A rule may also give a ``label``, beside a route or a model or alone. Every such rule that holds counts.
    """

    name: str  # written to records and to the reason of a decision
    when: When  # the conditions
    # What `keyword`, `regex`, `min_chars` and `max_chars` read. (default: `all_user` with `deny` or
    # `label`, else `latest_user`)
    reads: Scope | None = field(default=None, name="in")
    deny: str = ""  # refuse the request; the text is the message of the client's error
    route: str = ""  # send the request to this route
    model: str = ""  # send the request to this model
    label: OneOrMany = []  # give the request these labels: only models that are cleared for all may answer


class ClearanceSettings(Section, frozen=True):
    """Labels that do not come from rules, and who answers requests with labels in doubt."""

    header: str = ""  # a trusted header with labels, separated by commas; empty: none
    # Models that answer when the registry's default is not cleared for a request's labels, in this order.
    # (default: such a request is refused)
    default: OneOrMany = []


class ScorerSettings(Section, frozen=True):
    """How an embedding becomes a probability for each route."""

    # `logistic` separates routes best from five examples per route on; see benchmarks/RESULTS.md.
    kind: Literal["centroid", "prototypes", "logistic"] = "logistic"
    prototypes: Positive = 4  # number of prototypes per route, for `kind: prototypes`


class FastPathSettings(Section, frozen=True):
    """Decides by the words alone where they are enough. Needs an artefact that was trained for it."""

    # Share of these requests that is embedded all the same, to compare both decisions.
    sample: Annotated[float, Meta(gt=0, le=1)] = 0.05
    min_agreement: Fraction = 0.98  # least agreement with the encoder; surely below it, the fast path ends


DEFAULT_MARGIN = 0.1
DEFAULT_SIMILARITY = 0.3  # where there are too few examples to fit P(in scope)


class Thresholds(Section, frozen=True):
    """Floors: a request below one of them goes to the default model.

    An absent floor on the margin is the one that the artefact learnt, else ``DEFAULT_MARGIN``. An absent
    floor on P(in scope) is the one that was fitted; where only a floor on the similarity is written, there is
    none.
    """

    # Probability of the best route minus that of the second. (default: the artefact's, else 0.1)
    margin: Fraction | None = None
    # Probability of belonging to any route. (default: the artefact's, else fitted to the examples)
    in_scope: Fraction | None = None
    similarity: Fraction | None = None  # cosine to the nearest example; in place of in_scope (default: none)


Language = Literal[
    "any",
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "fi", "pl", "cs", "tr", "ro", "hu", "id", "vi",
    "arabic", "cyrillic", "devanagari", "greek", "han", "hangul", "hebrew", "kana", "thai", "other",
]  # fmt: skip


class EncoderSettings(Section, frozen=True):
    """The embedding model and where it runs."""

    # The embedding model. all-MiniLM-L6-v2 reads English, multilingual-e5-small about a hundred languages.
    model: Literal["all-MiniLM-L6-v2", "multilingual-e5-small"] = "all-MiniLM-L6-v2"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # `auto` is CUDA where it works, else the CPU
    precision: Literal["auto", "int8", "fp16", "fp32"] = "auto"  # `auto` is int8 on the CPU, fp16 on CUDA
    max_tokens: Annotated[int, Meta(ge=8, le=512)] = 128  # longer texts are cut to this length
    threads: Count = 0  # inference threads; 0 means half of the cores, at most 4
    # Languages, or scripts other than Latin, whose texts are embedded. A text that is surely in another one
    # gets the default. `any` embeds every text. (default: `[en]`, and `[any]` with multilingual-e5-small)
    languages: Annotated[list[Language], Meta(min_length=1)] | None = None
    queue: Positive = 256  # greatest number of requests that wait for the encoder; more get the default

    @property
    def reads(self) -> frozenset[str]:
        """The languages whose texts are embedded."""
        return frozenset(self.languages or ["en" if self.model == "all-MiniLM-L6-v2" else "any"])


class LlmSettings(Section, frozen=True):
    """Asks an LLM for the route of a request in doubt. Each sidecar counts its own limits.

    The call goes through Envoy's ``envoy.egress``. Without an answer, the request gets the default.
    """

    model: str  # the public name of a model that speaks openai.chat, with a key of its own or none
    deadline_ms: Annotated[int, Meta(ge=10, le=30_000)] = 1500  # milliseconds for the call
    max_share: Annotated[float, Meta(gt=0, le=1)] = 0.1  # greatest share of all requests that are asked about
    per_second: Annotated[float, Meta(gt=0)] = 5.0  # greatest number of calls per second
    # Greatest cost per hour in US dollars; the model needs a `price`. (default: no bound)
    dollars_per_hour: Annotated[float, Meta(gt=0)] | None = None
    examples: Annotated[int, Meta(ge=0, le=50)] = 3  # examples of each route that the LLM is shown
    cache: Count = 1000  # answers that are kept for requests with the same text; 0: none


class FeedbackSettings(Section, frozen=True):
    """Accepts opinions on answers, by POST /v1/router/feedback through Envoy."""

    token: Auth  # the bearer token that clients must send; only the sidecar reads it


class Telemetry(Section, frozen=True):
    """Which traces keep all their spans. Records and metrics cover every exchange."""

    # Share of traces that keep the spans of steps and calls. Every exchange has one span, and unusual
    # exchanges (errors, slow ones, low margins) keep all of them.
    trace_share: Fraction = 0.1
    low_margin: Fraction = 0.2  # a decision with a smaller margin keeps all its spans


class Cors(Section, frozen=True):
    """Web pages that may call the API from a browser. Envoy answers their preflight requests."""

    origins: Annotated[list[str], Meta(min_length=1)]  # each https://HOST[:PORT], or `*` for any origin
    max_age_s: Annotated[int, Meta(ge=0, le=86_400)] = 600  # seconds that a browser keeps a preflight answer


class EnvoySettings(Section, frozen=True):
    """What the generated Envoy configuration binds and how it behaves."""

    listen: str = "127.0.0.1:10000"  # HOST:PORT where clients find Envoy
    admin: str = "127.0.0.1:9901"  # HOST:PORT of Envoy's admin interface
    # Where Envoy finds each `extproc serve`: unix:/PATH or HOST:PORT.
    sidecar: OneOrMany = "unix:/run/extproc/sidecar.sock"
    sidecar_plaintext: bool = False  # allow a HOST:PORT outside loopback; the connection is not encrypted
    # A group, by name or number, that may use the unix sockets too. Empty: only their owner may.
    socket_group: str | Count = ""
    # The listener through which gates ask other models: unix:/PATH, or a port of loopback. It exists only
    # when a gate needs it.
    egress: str = "unix:/run/extproc/egress.sock"
    # Greatest size of the body of an LLM call; a larger one is a 413.
    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    # Greatest sum of the bodies that one sidecar reads at a time; other bodies wait.
    max_bytes_in_flight: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024
    response_headers: bool = True  # add x-router-* headers to answers
    upstream_timeout_s: Seconds = 600.0  # seconds that an answer may be silent
    cors: Cors | None = None  # web pages that may call the API (default: none)
    # A file, relative to the registry file, to which Envoy also writes each outcome. It keeps the outcomes
    # that are lost while no sidecar runs. Empty: no file.
    access_log: str = ""


class HoldoutSettings(Section, frozen=True):
    """Labelled rows that a version must route well enough before it serves."""

    data: str  # JSON lines as for `extproc eval`, not gzipped; relative to the registry file
    min_accuracy: Fraction  # least share of rows that are right; to abstain can be right
    # Greatest loss in percentage points against the version that serves, on the same rows. (default: no
    # bound)
    max_worse: Points | None = None
    # Greatest share of rows whose decision may change when their text is misspelt, re-cased, punctuated
    # in another way or wrapped in a courtesy, for each of these kinds. (default: no bound)
    max_flips: Fraction | None = None


# A busy machine of two cores moves and reads bodies at five times this rate.
_TRANSFER_BYTES_PER_S = 8 * 1024 * 1024
_LEAST_TRANSFER_S = 0.25


class Registry(Section, frozen=True):
    """A registry file."""

    models: dict[str, Model]  # by public name; a client that sends the name pins the model
    # The model that answers when the router is in doubt or the sidecar is down: one, or one per API.
    default: str | dict[str, str]
    # What happens to a request that no sidecar has decided: its API's default answers, or it is a 503. One
    # value, or one per API. `extproc validate` asks for it where deny rules exist. (default: `default`)
    without_sidecar: Unattended | dict[str, Unattended] | None = None
    # Where requests go that are not LLM calls. (default: they are a 404)
    passthrough: Passthrough | None = None
    routes: dict[str, RouteSettings] = {}  # kinds of requests, by name
    cascades: dict[str, Cascade] = {}  # lists of models to ask in turn, by name
    gates: dict[str, Gate] = {}  # checks that an answer of a tier must pass, by name
    rules: list[RuleSettings] = []  # deterministic decisions; the first that matches wins
    clearance: ClearanceSettings | None = None  # labels of requests that come from elsewhere (default: none)
    safety: SafetySettings | None = None  # looks for personal data and secrets (default: off)
    reference: str = ""  # the model against which savings are computed; empty: no savings
    # What happens to a model name that is not in `models` and is not `auto`: `reject` answers 404.
    unknown_models: Literal["route", "reject"] = "route"
    deny_status: Literal[400, 403] = 400  # status of the error when a deny rule matches
    trusted_headers: list[str] = []  # request headers that your proxy sets itself; rules may use them
    scorer: ScorerSettings = ScorerSettings()  # how examples become probabilities, without an artefact
    # A directory from `extproc train`, relative to the registry file. It serves in place of `scorer`.
    artefact: str = ""
    fast_path: FastPathSettings | None = None  # decides easy texts without the encoder (default: off)
    thresholds: Thresholds = Thresholds()  # floors below which the default model answers
    llm: LlmSettings | None = None  # asks an LLM about requests below a floor (default: off)
    holdout: HoldoutSettings | None = (
        None  # a test that each new version must pass before it serves (default: none)
    )
    encoder: EncoderSettings = EncoderSettings()  # the embedding model and where it runs
    # `ask` makes streams report their token usage, in one more chunk that clients see.
    stream_usage: Literal["leave", "ask"] = "leave"
    # Milliseconds that a request may wait for its embedding; then the default model answers. The question
    # to an LLM in doubt comes after it, with a deadline of its own (`llm.deadline_ms`).
    decision_ms: Annotated[int, Meta(ge=1, le=10_000)] = 200
    mode: Mode = Mode.ACTIVE  # `observe` decides and records, and changes no request
    rollout: Percent = 100.0  # percent of the requests that are obeyed; the others are observed
    rollout_key: str = ""  # a trusted header; requests with the same value are in or out together
    conversation_header: str = ""  # a trusted header that names the conversation of a request
    telemetry: Telemetry = Telemetry()  # which traces keep all their spans
    feedback: FeedbackSettings | None = None  # accepts opinions on answers (default: the path is a 404)
    envoy: EnvoySettings = EnvoySettings()  # addresses and limits of the generated Envoy configuration

    @property
    def transfer_s(self) -> float:
        """Seconds that the largest body may take to reach the sidecar, or wait before it is read."""
        return max(_LEAST_TRANSFER_S, self.envoy.max_body_bytes / _TRANSFER_BYTES_PER_S)

    @property
    def defaults(self) -> Mapping[Api, str]:
        """The default model of each API that a model speaks."""
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
    def labels_requests(self) -> bool:
        """Whether requests may carry labels."""
        header = bool(self.clearance and self.clearance.header)
        return header or bool(self.safety_labels) or any(rule.label for rule in self.rules)

    @property
    def safety_classes(self) -> Mapping[str, ClassTerms]:
        """What is done about each class that ``safety`` looks for: ``pii``, ``secrets``, ``head.CLASS``."""
        return self.safety.terms if self.safety else {}

    @property
    def safety_labels(self) -> frozenset[str]:
        """The labels for which models must be cleared to read what ``safety`` finds."""
        restricting = (SafetyAction.GUARD, SafetyAction.REDACT)
        return frozenset(each.label for each in self.safety_classes.values() if each.action in restricting)

    @property
    def refuses_requests(self) -> bool:
        """Whether deny rules or ``safety`` refuse requests for what they contain."""
        refuses = any(each.action is SafetyAction.REFUSE for each in self.safety_classes.values())
        return refuses or any(rule.deny for rule in self.rules)

    @property
    def refusing(self) -> frozenset[Api]:
        """The APIs whose requests are refused unless a sidecar has checked them.

        None while the mode is observe: then requests pass even if a deny rule matches.
        """
        if self.mode is Mode.OBSERVE:
            return frozenset()
        return frozenset(api for api, choice in self.unattended.items() if choice == "refuse")


def cleared_for(registry: Registry) -> Mapping[ModelName, frozenset[str]]:
    """The labels that each model is cleared for."""
    return {ModelName(name): frozenset(many(model.cleared_for)) for name, model in registry.models.items()}


def cluster_name(model: str) -> ClusterName:
    """The Envoy cluster that serves a registry model; the one place that knows the scheme."""
    return ClusterName(f"model-{model}")

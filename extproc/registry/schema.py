"""The registry's YAML schema: what an operator may write, with its defaults.

Every struct refuses unknown keys. ``registry.loading`` reads files into these types and
cross-checks them; ``registry.compiling`` compiles them into what serving uses.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

OneOrMany = str | list[str]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]

# Names end up in Envoy cluster names, header values, metric labels and file names.
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}"
ROUTE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the registry; unknown keys in it are an error."""


class Price(Section, frozen=True):
    """US dollars per million tokens."""

    input: Annotated[float, Meta(ge=0.0)]
    output: Annotated[float, Meta(ge=0.0)]


class Auth(Section, frozen=True):
    """Where Envoy finds a provider's key: exactly one of the two. Nobody else reads it."""

    env: str = ""  # a variable of Envoy's own environment
    file: str = ""  # relative to the registry file


class Model(Section, frozen=True):
    """One model behind one provider. Its key in ``models`` is the name clients may pin."""

    base_url: str  # http://host:port
    name: str = ""  # what the provider calls it; empty: the public name
    provider: Annotated[str, Meta(min_length=1)] = "openai"  # gen_ai.provider.name on spans and records
    auth: Auth | None = None
    pin: bool = True  # may a client choose it by its public name?
    price: Price | None = None
    context_window: Positive | None = None  # tokens of prompt and answer; None: takes any request


class RouteThresholds(Section, frozen=True):
    """Floors of one route; one that is absent is the registry's."""

    margin: Fraction | None = None
    similarity: Fraction | None = None


class Route(Section, frozen=True):
    """One kind of request, told by examples, and the models that may answer it."""

    candidates: OneOrMany  # the cheapest that can take the request answers it
    examples: list[Annotated[str, Meta(min_length=1)]] = []
    examples_file: str = ""  # one example a line; relative to the registry file
    thresholds: RouteThresholds = RouteThresholds()
    description: str = ""


class When(Section, frozen=True):
    """Conditions of a rule: all that are given must hold; within a list, any may."""

    path: OneOrMany = []  # shell pattern over the path without its query
    model: OneOrMany = []  # shell pattern over the model name the client sent
    tool: OneOrMany = []  # shell pattern over the names of the offered tools
    keyword: OneOrMany = []  # whole words or phrases in the user text, any case
    regex: str = ""  # RE2 syntax, searched in the user text
    min_chars: Count | None = None  # of the user text
    max_chars: Count | None = None
    min_bytes: Count | None = None  # of the body
    max_bytes: Count | None = None
    images: bool | None = None  # does the latest user turn carry images or other media?
    header: dict[str, OneOrMany] = {}  # exact values; names must be in trusted_headers


class Rule(Section, frozen=True):
    """When ``when`` holds: exactly one of deny, route, model."""

    name: str
    when: When
    deny: str = ""  # the message the client gets with its 403
    route: str = ""
    model: str = ""


class Scorer(Section, frozen=True):
    """How an embedding is turned into a probability per route."""

    # The sharpest of the three from five examples a route on; see benchmarks/RESULTS.md.
    kind: Literal["centroid", "prototypes", "logistic"] = "logistic"
    prototypes: Positive = 4  # per route, for kind: prototypes


class Thresholds(Section, frozen=True):
    """Floors below which a request abstains to the default model."""

    margin: Fraction = 0.1  # probability of the best route less that of the second
    similarity: Fraction = 0.3  # cosine to the nearest example


class Encoder(Section, frozen=True):
    """The embedding model and where it runs."""

    model: Literal["all-MiniLM-L6-v2"] = "all-MiniLM-L6-v2"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA when it works, else the CPU
    precision: Literal["auto", "int8", "fp16", "fp32"] = "auto"  # auto: int8 on CPU, fp16 on CUDA
    max_tokens: Annotated[int, Meta(ge=8, le=512)] = 128  # longer texts are cut to this
    threads: Count = 0  # inference threads; 0: half of the cores, at most 4
    queue: Positive = 256  # requests that may wait for the encoder; more are shed


class Envoy(Section, frozen=True):
    """What the generated Envoy configuration binds and how it behaves."""

    listen: str = "127.0.0.1:10000"
    admin: str = "127.0.0.1:9901"
    sidecar: str = "unix:/tmp/extproc.sock"  # where Envoy finds `extproc serve`: that, or HOST:PORT
    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 16 * 1024 * 1024
    response_headers: bool = True  # x-router-* on answers
    upstream_timeout_s: Annotated[float, Meta(gt=0)] = 600.0  # idle limit of an answer


class Registry(Section, frozen=True):
    """The whole file."""

    models: dict[str, Model]
    default: str  # answers when nothing else was decided, and when the sidecar is down
    routes: dict[str, Route] = {}
    rules: list[Rule] = []
    unknown_models: Literal["route", "reject"] = "route"
    trusted_headers: list[str] = []  # request headers that Envoy sets, so rules may use them
    scorer: Scorer = Scorer()
    thresholds: Thresholds = Thresholds()
    encoder: Encoder = Encoder()
    decision_ms: Annotated[int, Meta(ge=1, le=10_000)] = 200  # the whole decision's budget
    envoy: Envoy = Envoy()


def cluster_name(model: str) -> str:
    """The Envoy cluster that serves a registry model; the one place that knows the scheme."""
    return f"model-{model}"


def many(value: OneOrMany) -> list[str]:
    """A key that takes one text or a list of them, as a list."""
    return [value] if isinstance(value, str) else value

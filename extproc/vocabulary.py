"""The frozen types that pass between stages.

They are msgspec structs: immutable, built in a fraction of a microsecond, and encoded to
JSON the same way wherever they appear (records, ``explain --json``, tests). This module
imports nothing of ours, so that any layer may import it.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NewType, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Version = NewType("Version", str)
"""A version of the registry; empty: not known."""

ModelName = NewType("ModelName", str)
"""A model's public name in the registry; empty: none."""

UpstreamName = NewType("UpstreamName", str)
"""The name by which a model's provider knows it."""

RouteName = NewType("RouteName", str)
"""A route of the registry; empty: none."""

ClusterName = NewType("ClusterName", str)
"""A cluster of Envoy."""


class Api(StrEnum):
    """An LLM API that clients speak. The value is written to records and metrics."""

    OPENAI_CHAT = "openai.chat"
    OPENAI_COMPLETIONS = "openai.completions"
    OPENAI_RESPONSES = "openai.responses"
    ANTHROPIC_MESSAGES = "anthropic.messages"


class Stage(StrEnum):
    """The stage of the pipeline that settled a decision."""

    DENY = "deny"
    SAFETY = "safety"  # personal data, a secret or the like was found
    PIN = "pin"
    RULE = "rule"
    LEXICAL = "lexical"  # the words alone were enough
    EMBEDDING = "embedding"
    LLM = "llm"  # an LLM chose the route of a request in doubt
    DEFAULT = "default"


class Reason(StrEnum):
    """Why a decision came out as it did. Low cardinality: it labels metrics."""

    PINNED = "pinned"  # the client named a registry model that may be pinned
    RULE = "rule"  # a rule named the route or the model
    MATCHED = "matched"  # the scorer was sure enough
    NO_CANDIDATE = "no_candidate"  # a route was found, but the request fits none of its models
    LOW_MARGIN = "low_margin"  # abstained: the runner-up was too close
    LOW_SIMILARITY = "low_similarity"  # abstained: nothing like any example
    OUT_OF_SCOPE = "out_of_scope"  # abstained: it probably belongs to no route
    NO_TEXT = "no_text"  # abstained: no user text to embed
    LANGUAGE = "language"  # abstained: the encoder does not read the text's language
    NO_ROUTES = "no_routes"  # the registry has no routes to score
    DEADLINE = "deadline"  # the decision's time budget ran out
    OVERLOADED = "overloaded"  # the encoder would be late with it: shed at once
    BYTES_IN_FLIGHT = "bytes_in_flight"  # the sidecar was reading as many bodies as it may
    ENCODER_ERROR = "encoder_error"  # the encoder raised
    UNKNOWN_VERSION = "unknown_version"  # Envoy holds a registry that this process does not
    INTERNAL_ERROR = "internal_error"  # a defect of ours; logged with its traceback


class Scope(StrEnum):
    """How much of a request's text a rule reads."""

    LATEST_USER = "latest_user"  # the latest turn of the user
    ALL_USER = "all_user"  # every turn of the user
    EVERYTHING = "everything"  # all text that the model will read


class SafetyAction(StrEnum):
    """What is done about personal data, secrets and the like, from the mildest to the strictest."""

    ALLOW = "allow"  # it is only recorded
    GUARD = "guard"  # the request gets a label: only models that are cleared for it may answer
    REDACT = "redact"  # it is replaced in the body, unless every model that could read it is cleared
    REFUSE = "refuse"  # the request is refused


class Mode(StrEnum):
    """Whether what was decided is done."""

    ACTIVE = "active"
    OBSERVE = "observe"  # it is recorded as if, and the request goes where Envoy alone would send it


class RequestHead(msgspec.Struct, frozen=True):
    """What the client's HTTP request says before its body.

    Header names are lower case, as Envoy sends them; pseudo headers are not in ``headers``.
    """

    method: str
    path: str  # with its query string
    headers: Mapping[str, str]
    has_body: bool = True
    traceparent: str = ""  # W3C trace context of Envoy's span, else of the client's header
    config_version: Version = Version(
        ""
    )  # of the registry whose routes the asking Envoy holds; empty: it does not say


Passage = tuple[str, ...]
"""What one author wrote in a row, as the parts in which it came."""

Span = tuple[int, int]
"""Where a JSON value stands in a body: the offsets [start, end) of its bytes."""


class ChatRequest(msgspec.Struct, frozen=True):
    """One LLM request as far as routing needs to understand it. Everything else stays bytes.

    ``prompt_chars`` is for estimates of context windows: the characters of all text that the model
    will read (system prompts, every turn, results of tools), the bytes of JSON that it will read as
    text (definitions and calls of tools), and 4 for each token of a prompt that is given as tokens.
    Images and other media, documents, earlier reasoning and what the provider keeps count nothing.
    """

    api: Api
    model: str  # the name the client sent; empty where its API does not require one
    spans: Mapping[str, Span]  # of the members that edits may concern, by path: ``reasoning.effort``
    user_text: str  # text parts of the latest user turn, joined by newlines; may be empty
    body_bytes: int
    user_parts: Passage = ()  # the parts of ``user_text``; empty: it is one
    user_turns: tuple[
        Passage, ...
    ] = ()  # all the user's turns, those in a row as one; empty: only the latest
    tools: tuple[str, ...] = ()  # names of the functions offered
    images: int = 0  # parts of the latest user turn that are not text, and of results of tools after it
    messages: int = 1
    stream: bool = False
    prompt_chars: int = 0
    max_tokens: int | None = None  # the client's limit for the answer, under any name of its API
    conversation: str = ""  # what the client calls the conversation; a client may say anything
    # What the user asked before, the latest first, as ``apis.repeated_question`` compares it; empty where
    # the request asks nothing new, but goes on with a tool's result or an answer that was begun.
    earlier: tuple[str, ...] = ()


class Effort(StrEnum):
    """How much a model should reason before it answers."""

    NONE = "none"  # not at all
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class BodyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's body must say when it goes to the provider, whichever API it speaks."""

    model: UpstreamName
    max_tokens: int | None = None  # the client's limit is lowered to this, or set; never raised
    reasoning: Effort | None = None  # None: the client's choice
    include_usage: bool = False  # ask for token usage in streams that report it only on request


class Question(msgspec.Struct, frozen=True):
    """What the pipeline decides on: the parsed request and the head it came with."""

    request: ChatRequest
    head: RequestHead
    conversation_id: str = ""  # a hash; empty: the conversation is not known
    everything: Callable[[], tuple[Passage, ...]] | None = (
        None  # reads ``Scope.EVERYTHING``; None: the user's
    )

    @property
    def request_id(self) -> str:
        """Envoy's name of the exchange; empty where it gave none."""
        return self.head.headers.get("x-request-id", "")


class Served(msgspec.Struct, frozen=True):
    """A model as records name it."""

    model: ModelName
    upstream_model: UpstreamName
    provider: str = ""


class Terms(msgspec.Struct, frozen=True):
    """The settings of one registry version that apply to every request before it is decided."""

    mode: Mode = Mode.ACTIVE  # of what no route speaks for; observe: refusals too are only recorded
    conversation_header: str = ""  # lower case; a trusted one that says which conversation it is
    defaults: Mapping[Api, Served] = {}  # who answers when Envoy alone decides; empty: not known
    checks: bool = False  # it forbids something: the sidecar lets no body go on that it did not read
    unrecorded: frozenset[str] = frozenset()  # kinds of findings that are replaced in recorded prompts


class Embedding(msgspec.Struct, frozen=True):
    """One text as the encoder sees it."""

    vector: NDArray[np.float32]  # shape (dimensions,), unit length
    tokens: int  # tokens the encoder read, after truncation
    queue_s: float  # seconds waited for the device
    infer_s: float  # seconds of the batch it was in
    inner: NDArray[np.float32] | None = None  # the encoder's inner layers, unit vectors side by side


class Embedder(Protocol):
    """Turns one text into its embedding without blocking the event loop."""

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        """``within_s`` is how long the caller will wait, in seconds; None: as long as it takes.

        Raises ``errors.Overloaded`` where it would take longer, and ``errors.EncoderFailed``.
        """
        ...


class Encoder(Protocol):
    """Turns many texts into embeddings, blocking; for start-up, training and evaluation."""

    @property
    def name(self) -> str:
        """The encoder's identity: equal names give equal vectors."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of shape (len(texts), dimensions). Raises ``errors.EncoderFailed``."""
        ...


class TurnReading(msgspec.Struct, frozen=True):
    """The text that a decision is made by: a piece of the user's turn, as it is embedded."""

    text: str
    part: str = "whole"  # of the turn: whole, first, last, inner or labelled (as the question)
    misspelt: int = 0  # words that were corrected


class Candidate(msgspec.Struct, frozen=True):
    """One route as the scorer saw it."""

    route: RouteName
    probability: float  # calibrated, sums to 1 over all routes
    similarity: float | None  # cosine to the nearest example of this route, [-1, 1]; None: not embedded


class Scores(msgspec.Struct, frozen=True):
    """A scorer's result for one text. The similarity of a text that was not embedded is not known."""

    candidates: tuple[Candidate, ...]  # most probable first; never empty
    margin: float  # probability of the first less that of the second, [0, 1]
    similarity: float | None  # cosine to the nearest example of any route, [-1, 1]
    nearest: str  # the text of that example
    in_scope: float | None = None  # the probability that the text belongs to any route; None: not computed
    reading: TurnReading | None = None  # the text that was scored; None: unknown

    @property
    def probability(self) -> float:
        """The probability of the most probable route."""
        return self.candidates[0].probability


class Offer(msgspec.Struct, frozen=True):
    """One model of the chosen route that could take the request, as model choice saw it."""

    model: ModelName
    quality: float | None  # the probability that its answer is good; None: nothing was predicted
    cost: float  # expected, US dollars; 0 for a model without a price
    dominated_by: ModelName = ModelName("")  # a candidate that costs no more and is no worse; "": none


class FastPathComparison(msgspec.Struct, frozen=True):
    """A request that the fast path would have decided, and that was embedded as a sample."""

    agreed: bool  # was the encoder's decision the same?
    weight: float  # of how many requests this is one that was embedded

    @property
    def result(self) -> str:
        """As records and metrics say it."""
        return "agreed" if self.agreed else "disagreed"


class LlmResult(StrEnum):
    """How the question to the LLM about a request in doubt ended. Labels a metric."""

    MATCHED = "matched"  # it named a route
    NONE = "none"  # it named no route
    INVALID = "invalid"  # its reply is not what the schema asks for
    TIMEOUT = "timeout"
    FAILED = "failed"  # an error, or no connection
    BUDGET = "budget"  # not asked: the budget was used up
    BREAKER = "breaker"  # not asked: it failed too often a moment ago


class LlmOpinion(msgspec.Struct, frozen=True, kw_only=True):
    """What an LLM said about a request in doubt, or why it said nothing."""

    result: LlmResult
    model: ModelName  # that was or would have been asked
    doubt: Reason = Reason.LOW_MARGIN  # why it was asked
    route: RouteName = RouteName("")  # empty unless ``result`` is MATCHED
    why: str = ""  # one line, in its own words
    cached: bool = False  # from an equal request before, or together with one: nothing was paid
    input_tokens: int | None = None  # None: not reported, or nothing was paid
    output_tokens: int | None = None


class Choice(msgspec.Struct, frozen=True):
    """What a stage decided: a route, a model, or (``Stage.DEFAULT``) to leave it to the default."""

    stage: Stage
    reason: Reason
    route: RouteName = RouteName("")  # empty: no route was chosen
    model: ModelName = ModelName("")  # empty: the registry's default
    rule: str = ""  # the rule that matched, if one did
    scores: Scores | None = None
    embedding: Embedding | None = None  # of the piece that was read
    turn_embedding: Embedding | None = None  # of the whole turn, by which quality is predicted
    offers: tuple[Offer, ...] = ()  # what a route with a bar could choose between
    training_similarity: float | None = None  # to the nearest prompt that quality was trained on
    comparison: FastPathComparison | None = None
    opinion: LlmOpinion | None = None  # of an LLM, if the request was in doubt and one was to be asked
    llm_s: float | None = None  # seconds that the decision waited for it; None: it was known at once


class StageTimes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Microseconds spent per step of one decision; a step that did not run is absent."""

    parse: int | None = None  # reading the body
    rules: int | None = None  # everything that is decided without waiting: deny, pins, rules
    queue: int | None = None  # waiting for the encoder
    embed: int | None = None  # the encoder's batch
    score: int | None = None  # from the embedding to the decision
    llm: int | None = None  # waiting for the LLM that is asked in doubt
    total: int | None = None  # the whole decision after parsing, with ``llm``


class Decision(msgspec.Struct, frozen=True):
    """The outcome of the pipeline: where the request goes and how sure we are.

    ``probability``, ``margin``, ``similarity`` and ``in_scope`` are None when no embedding was made: a
    decision has no invented scores.
    """

    route: RouteName  # empty: no route was chosen (pin, default)
    model: ModelName
    policy: BodyPolicy  # what the body must say, the provider's name of the model first of all
    cluster: ClusterName  # that serves it
    stage: Stage
    reason: Reason
    version: Version  # of the registry that decided
    provider: str = ""  # who serves the model, as the GenAI conventions name providers
    fallback: bool = False  # whether Envoy may ask other models should this one fail
    rule: str = ""
    probability: float | None = None
    margin: float | None = None
    similarity: float | None = None
    in_scope: float | None = None
    candidates: tuple[Candidate, ...] = ()
    offers: tuple[Offer, ...] = ()  # models that a route with a quality bar could choose between
    training_similarity: float | None = None  # to the nearest prompt that quality was trained on
    nearest: str = ""
    reading: TurnReading | None = None  # the piece of the user's turn that was scored; None: no text was
    comparison: FastPathComparison | None = None  # with the lexical fast path, of its sample
    opinion: LlmOpinion | None = None  # of an LLM about a request in doubt; None: none was to be asked
    labels: tuple[str, ...] = ()  # that the request carries, sorted
    clearance: str = ""  # the labels as Envoy chooses the models of a chain by; empty: any model may answer
    found: tuple[str, ...] = ()  # by the safety policy: "kind:number"
    safety: str = ""  # the strictest action that this asked for; empty: none
    safety_scores: tuple[str, ...] = ()  # by the safety head: "class:probability"
    redacted: frozenset[str] = frozenset()  # kinds of findings to replace in the body
    unredacted: tuple[str, ...] = ()  # shell patterns of values that stay
    tokens: int | None = None  # tokens embedded
    times: StageTimes = StageTimes()
    mode: Mode = Mode.ACTIVE  # observe: this is what would be done

    @property
    def upstream_model(self) -> UpstreamName:
        """The name the provider is sent."""
        return self.policy.model

    @property
    def predicted_quality(self) -> float | None:
        """The probability that the chosen model's answer is good; None: nothing was predicted."""
        return next((offer.quality for offer in self.offers if offer.model == self.model), None)

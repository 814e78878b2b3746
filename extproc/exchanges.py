"""Finished exchanges and the attempts made for them, as Envoy reports them: frozen values.

Like ``vocabulary``, they pass between packages: the wire builds them, telemetry records them.
"""

from typing import Protocol

import msgspec

from extproc.vocabulary import ClusterName, Mode, ModelName, RouteName, UpstreamName, Version


class Usage(msgspec.Struct, frozen=True):
    """What an answer reported about itself. A count that was not seen is None, which is not 0."""

    input: int | None = None  # tokens, as the provider counts them
    output: int | None = None
    cached: int | None = None  # of the input, read from the provider's cache
    cache_write: int | None = None  # of the input, written to it
    reasoning: int | None = None  # of the output
    finish: str = ""  # why it ended, in the API's own word
    refusal: bool = False  # whether the API's own field says that the model refused
    response_id: str = ""
    response_model: str = ""
    first_token_at: float | None = None  # seconds since the epoch; only of streams whose token was seen


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision's facts for the outcome, which Envoy carries as dynamic metadata ``router``.

    The sidecar keeps nothing between the two phases: any process can turn an access log
    entry into a record, because everything the record needs about the decision is here.
    Flat, so that operators can use each as ``%DYNAMIC_METADATA(router:NAME)%``, and small, since
    Envoy holds it as long as the exchange: every text is bounded where it is made.
    Durations are microseconds. ``error`` is the label of a refused request's error. In mode observe
    ``model`` and what belongs to it are those of Envoy's default, and ``would_*`` what was decided.
    """

    schema: int = 1
    api: str = ""
    route: RouteName = RouteName("")
    model: ModelName = ModelName("")
    upstream_model: UpstreamName = UpstreamName("")
    original_model: str = ""
    provider: str = ""
    stage: str = ""
    reason: str = ""
    rule: str = ""
    error: str = ""
    probability: float | None = None
    margin: float | None = None
    similarity: float | None = None
    in_scope: float | None = None
    read_part: str = ""  # the part of the user's turn that was scored; empty: none was
    misspelt: int | None = None  # words that were corrected before
    candidates: tuple[str, ...] = ()  # "route:probability", the most probable few first
    predicted_quality: float | None = None  # the probability that the model's answer is good
    offers: tuple[str, ...] = ()  # "model:predicted quality" of a few that could have been chosen
    training_similarity: float | None = None  # to the nearest prompt that quality was trained on
    labels: tuple[str, ...] = ()  # that the request carried: models must be cleared for them
    safety: str = ""  # the strictest action that the safety policy asked for; empty: it found nothing
    found: tuple[str, ...] = ()  # "kind:number" of what it found
    safety_scores: tuple[str, ...] = ()  # "class:probability", by the safety head
    redacted: bool | None = None  # whether something was replaced in the body
    version: Version = Version("")
    lexical: str = ""  # of the fast path's sample: agreed or disagreed
    weight: float | None = None  # of the sample: of how many requests it is one
    llm_result: str = ""  # how the question to an LLM ended; empty: the request was not in doubt
    llm_doubt: str = ""  # why it was in doubt
    llm_model: ModelName = ModelName("")
    llm_cached: bool | None = None  # whether the answer to an equal request was used
    llm_input_tokens: int | None = None
    llm_output_tokens: int | None = None
    llm_why: str | None = None  # in the LLM's words; only by the operator's opt-in to text
    tokens: int | None = None
    stream: bool = False
    reask: bool | None = None  # whether the client asks again what it asked before; None: unknown
    traceparent: str = ""
    began_us: int | None = None  # when its body was there, microseconds since the epoch
    parse_us: int | None = None
    rules_us: int | None = None
    queue_us: int | None = None
    embed_us: int | None = None
    llm_us: int | None = None
    total_us: int | None = None
    prompt: str = ""  # the beginning of the latest user turn; only by the operator's opt-in
    mode: str = Mode.ACTIVE
    would_route: RouteName = RouteName("")
    would_model: ModelName = ModelName("")
    conversation_id: str = ""


class Exchange(msgspec.Struct, frozen=True):
    """One finished HTTP exchange, from Envoy's access log. Durations are seconds."""

    request_id: str
    started_at: float  # seconds since the epoch
    duration: float | None  # until the last byte was sent to the client
    first_byte: float | None  # until the provider's first byte came, which may be of an early head
    status: int  # 0: the client left before an answer
    flags: tuple[str, ...]  # Envoy's response flags, e.g. UH, UF, DC
    method: str
    path: str  # without its query
    cluster: ClusterName  # the upstream cluster; empty when none was chosen
    request_bytes: int
    response_bytes: int
    envelope: Envelope | None  # None: the sidecar took no part (down, slow or broken)
    traceparent: str = ""  # of the request to the provider; the envelope's has precedence
    first_body_byte: float | None = None  # until the first byte of its answer's body came
    api: str = ""  # of the client's request, from its path
    usage: Usage | None = None  # None: the answer was not read
    attempts: int = 0  # calls of models that Envoy made
    served_by: ModelName = ModelName("")  # the model that answered, if that may differ from the decided one
    tried: tuple["Attempt", ...] = ()  # each call of a model that a hop made for it, if known


class SecondAnswer(msgspec.Struct, frozen=True):
    """The result of a gate's call to another model, for an answer or a rating. It costs tokens too."""

    model: ModelName
    outcome: str  # answered, timeout, budget, failed, unasked or not_cleared
    input: int | None = None  # tokens; None: not known, as after a timeout
    output: int | None = None
    score: float | None = None  # the verifier's rating, 0 to 1


class Ruling(msgspec.Struct, frozen=True):
    """A gate's verdict on an answer. It travels in the hop's dynamic metadata to the record."""

    escalate: bool  # the client does not get the answer, and the next tier is asked
    gate: str = ""
    reason: str = ""
    score: float | None = None  # the probability that the answer is good, where that is calibrated
    second: SecondAnswer | None = None  # None: no other model was needed


class Attempt(msgspec.Struct, frozen=True):
    """One call of a model that a hop made for an exchange, from the hop's access log."""

    call: Exchange  # the hop's exchange with the provider; its request id is the client exchange's
    number: int  # 1 is the first
    model: ModelName
    upstream_model: UpstreamName = UpstreamName("")
    provider: str = ""
    version: Version = Version("")  # of the registry by which it was decided
    cascade: str = ""  # whose tier it was; empty: a fallback
    tier: int | None = None  # 0 is the first; None: no tier, but the last resort
    ruling: Ruling | None = None  # None: no gate judged it


class ExchangeSink(Protocol):
    """Takes finished exchanges and attempts: records, spans, metrics."""

    def accept(self, exchange: Exchange) -> None:
        """Never raises and never blocks on the network. It counts what it drops."""
        ...

    def attempted(self, attempt: Attempt) -> None:
        """As ``accept``, for one attempt; most often before its exchange is over."""
        ...

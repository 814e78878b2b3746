"""What a registry demands of the answers of one tier, as frozen values."""

from typing import Literal

import msgspec

from extproc.gate.judge import Judge
from extproc.vocabulary import Api, ModelName, UpstreamName


class SecondTerms(msgspec.Struct, frozen=True):
    """Another model answers the same request."""

    temperature: float | None = None  # of the second call; None: the request's own


class VerifierTerms(msgspec.Struct, frozen=True):
    """Another model rates the answer with a number from 0 to 1."""

    min_score: float  # least rating of an answer that is kept
    prompt: str = ""  # the instruction for the model; empty: the built-in one


class Consulted(msgspec.Struct, frozen=True, kw_only=True):
    """The other model that a gate asks, and on which terms."""

    model: ModelName
    upstream_model: UpstreamName
    apis: tuple[Api, ...]  # that it speaks
    deadline_s: float  # seconds for the call
    calls_per_s: float | None = None  # budget of each sidecar; None: no bound
    on_error: Literal["keep", "escalate"] = "keep"  # what happens to a good answer without an opinion
    cleared_for: frozenset[str] = frozenset()  # labels of requests that it may see
    terms: SecondTerms | VerifierTerms


class JudgedTier(msgspec.Struct, frozen=True):
    """The gate of one tier."""

    gate: str  # the gate's name in the registry
    judge: Judge
    stream: Literal["hold", "prefix", "off"]
    prefix_chars: int  # with `prefix`, characters of a stream's text after which it is judged
    prefix_events: int  # or events, whichever comes first
    timeout_s: float | None = None  # seconds for this tier; None: no bound
    deadline_s: float | None = None  # seconds that all tiers of a request share; None: no bound
    consulted: Consulted | None = None  # None: no other model is asked

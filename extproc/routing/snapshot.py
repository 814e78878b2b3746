"""The snapshot: everything a decision needs, compiled from one version of the registry.

It is taken once per request and never changes, so that a reload in the middle of a request
cannot mix two versions.
"""

from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from extproc.routing.clearance import NO_LABELS, ClearancePolicy, Labels, only_cleared
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.fastpath import FastPath
from extproc.routing.languages import ANY
from extproc.routing.llm_question import LlmPolicy
from extproc.routing.model_choice import Target
from extproc.routing.predicted_quality import Quality
from extproc.routing.rollout import Rollout
from extproc.routing.rules import CompiledRule
from extproc.routing.safety_policy import NOTHING_FOUND, SafetyPolicy, SafetyVerdict
from extproc.routing.turn_reading import TurnReader
from extproc.vocabulary import (
    Api,
    Effort,
    ModelName,
    RouteName,
    SafetyAction,
    Terms,
    TurnReading,
    Version,
)


class RoutePolicy(msgspec.Struct, frozen=True):
    """How requests of one route are answered, and how sure a scorer must be to call them that."""

    candidates: tuple[Target, ...]  # in the registry's order; empty only if none is cleared
    margin_floor: float
    similarity_floor: float | None = None  # None: any similarity will do
    in_scope_floor: float | None = None  # None: any P(in scope) will do
    quality_bar: float | None = None  # what an answer's predicted quality must reach; None: any will do
    max_tokens: int | None = None  # the client's limit for the answer is lowered to this
    reasoning: Effort | None = None
    fallback: bool = False  # whether Envoy may ask other models should the chosen one fail
    rollout: Rollout = Rollout()
    reached: frozenset[ModelName] = frozenset()  # that Envoy or a gate may ask besides the chosen model


class Snapshot(msgspec.Struct, frozen=True):
    """One version of the registry, ready to decide."""

    version: Version
    targets: Mapping[ModelName, Target]
    routes: Mapping[RouteName, RoutePolicy]
    defaults: Mapping[Api, ModelName]
    deny_rules: tuple[CompiledRule, ...]
    route_rules: tuple[CompiledRule, ...]
    meaning: Meaning | None  # None: the registry has no routes with examples
    budget_s: float  # for the embedding, with its wait in the queue
    reader: TurnReader | None = None  # finds the piece of a turn that decides; None: turns are read whole
    fast_path: FastPath | None = None  # only where ``meaning`` is
    quality: Quality | None = None  # knows every candidate of a route with a quality bar
    unknown_models_rejected: bool = False
    deny_status: int = 400  # of the answer to a request that a deny rule refuses
    ask_usage: bool = False  # ask for token usage in streams that report it only on request
    languages: frozenset[str] = frozenset({ANY})  # that the encoder reads, see ``languages.KNOWN``
    rollout: Rollout = Rollout()  # of decisions for no route
    rollout_key: str = ""  # the trusted header, in lower case, by which requests are in or out
    terms: Terms = Terms()
    llm: LlmPolicy | None = None  # how an LLM is asked about requests in doubt; None: none is
    clearance: ClearancePolicy | None = None  # None: requests carry no labels
    labels: Labels = NO_LABELS  # that all which is left here is cleared for, see ``for_labels``
    safety: SafetyPolicy | None = None  # None: requests are not searched
    verdict: SafetyVerdict = NOTHING_FOUND  # of the safety policy on the request

    def for_labels(self, labels: Labels) -> "Snapshot":
        """The snapshot for a request with these labels: only models that are cleared for all of them.

        ``targets`` stay complete, because a pin to any of them is understood.
        """
        policy = self.clearance
        if policy is None or not labels:
            return self
        return replace(
            self,
            labels=labels,
            routes={
                name: replace(route, candidates=only_cleared(route.candidates, policy, labels))
                for name, route in self.routes.items()
            },
            defaults=dict(self._cleared_defaults(policy, labels)),
            llm=self.llm if self.llm and policy.admits(self.llm.model, labels) else None,
        )

    def _cleared_defaults(self, policy: ClearancePolicy, labels: Labels) -> Iterator[tuple[Api, ModelName]]:
        for api, default in self.defaults.items():
            others = (target.model for target in policy.defaults if api in target.apis)
            cleared = (model for model in (default, *others) if policy.admits(model, labels))
            if (model := next(cleared, None)) is not None:
                yield api, model

    def for_verdict(self, verdict: SafetyVerdict) -> "Snapshot":
        """The snapshot for a request of which the safety policy found this.

        What has to be redacted is not shown to an LLM in doubt that is not cleared for it.
        """
        unread = frozenset(each.label for each in verdict.of(SafetyAction.REDACT))
        llm = self.llm if self.llm and self.admits(self.llm.model, unread) else None
        return replace(self, verdict=verdict, llm=llm)

    @property
    def judges_by_head(self) -> bool:
        """Whether the request is embedded for safety, whatever decides it."""
        return self.safety is not None and self.safety.head is not None and not self.verdict.exempt

    @property
    def restricted(self) -> bool:
        """Whether not every model may read the request as it came."""
        return bool(self.labels) or any(self.verdict.of(SafetyAction.REDACT))

    def admits(self, model: ModelName, labels: Labels | None = None) -> bool:
        """Whether the model is cleared for the labels: those of the request, unless others are given."""
        wanted = self.labels if labels is None else labels
        return not wanted or (self.clearance is not None and self.clearance.admits(model, wanted))

    def read(self, text: str) -> TurnReading:
        """What of a user's turn is scored against the routes."""
        return TurnReading(text) if self.reader is None else self.reader.read(text)

    def embedded(self, text: str, reading: TurnReading) -> tuple[str, ...]:
        """The texts that the encoder reads for a turn: what is scored and, to predict quality, the turn."""
        return (reading.text,) if self.quality is None or reading.text == text else (reading.text, text)

    @property
    def fast_path_open(self) -> bool | None:
        """Whether the lexical fast path decides; None where there is none."""
        return None if self.fast_path is None else not self.fast_path.watch.ended

"""The series that exist before anything has happened, all at 0.

A counter whose first sample is already 1 has no increase that ``rate()`` could see. So each counter begins
with the label sets that are known beforehand, from the registry and from enumerations. A label set that only
the traffic knows, as an unusual status, still begins with its first event.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Final

from opentelemetry.metrics import Counter, Meter

from extproc.errors import BadRequest, NoFeedback, TooLarge, Unauthorized, Unavailable
from extproc.registry.live_registry import Result
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.registry.tier_compiling import reasons_of
from extproc.telemetry import otel_names
from extproc.telemetry.feedback_receiver import ACCEPTED
from extproc.telemetry.row_building import REFUSALS
from extproc.vocabulary import FastPathComparison, LlmOpinion, LlmResult, Mode, ModelName, Reason, Stage

Labels = Mapping[str, str | bool]
Series = tuple[str, Labels]  # the name of a counter, and one of its label sets

FAILURES: Final = ("access_log", "decide", "feedback", "gate", "protocol")
FEEDBACK: Final = (
    ACCEPTED,
    *(error.label for error in (BadRequest, NoFeedback, TooLarge, Unauthorized, Unavailable)),
)
_ABSTAINED: Final = (
    *(Reason.LOW_MARGIN, Reason.LOW_SIMILARITY, Reason.OUT_OF_SCOPE),
    *(Reason.NO_CANDIDATE, Reason.NO_TEXT),
    Reason.LANGUAGE,
)
_UNDECIDED: Final = (
    *(Reason.DEADLINE, Reason.OVERLOADED, Reason.ENCODER_ERROR),
    *(Reason.UNKNOWN_VERSION, Reason.INTERNAL_ERROR),
)
_STATUS_CLASSES: Final = ("2xx", "4xx", "5xx", "none")
_CALLS: Final = ("1", "2", "3")
LAST_RESORT: Final = "last resort"


def always() -> Iterator[Series]:
    """Those that no registry changes."""
    for where in FAILURES:
        yield otel_names.FAILURES, {otel_names.ERROR_TYPE: where}
    for result in FEEDBACK:
        yield otel_names.FEEDBACK, {otel_names.RESULT: result}
    for result in Result:
        yield otel_names.REGISTRY_RELOADS, {otel_names.RESULT: result.value}
    for agreed in (True, False):
        yield otel_names.FAST_PATH_COMPARISONS, {otel_names.RESULT: FastPathComparison(agreed, 1.0).result}
    for error, mode in product(REFUSALS, Mode):
        yield otel_names.REFUSALS, {otel_names.ERROR_TYPE: error, otel_names.ROUTER_MODE: mode.value}
    for status in _STATUS_CLASSES:
        yield otel_names.EXCHANGES, _exchange("", "", status, "unknown", bypassed=True)


def of(registry: Registry) -> Iterator[Series]:
    """Those of the routes, models and cascades of a registry."""
    for route, model, mode in _places(registry):
        for status in _STATUS_CLASSES:
            yield otel_names.EXCHANGES, _exchange(route, model, status, mode)
    yield from _decisions(registry)
    yield from _doubts(registry)
    yield from _cascades(registry)
    yield from _safety(registry)
    for model in registry.models:
        yield otel_names.ATTEMPTS, {
            otel_names.ROUTER_MODEL: model, otel_names.ROUTER_STATUS_CLASS: "2xx", otel_names.ERROR_TYPE: "",
        }  # fmt: skip
    for route, model, _ in _places(registry):
        if model in registry.models and registry.models[model].price is not None:
            money = {otel_names.ROUTER_ROUTE: route, otel_names.ROUTER_MODEL: model}
            yield otel_names.COST, money
            if registry.reference:
                yield otel_names.REFERENCE_COST, money


def _safety(registry: Registry) -> Iterator[Series]:
    for action, mode in product(sorted({each.action for each in registry.safety_classes.values()}), Mode):
        labels = {otel_names.ROUTER_SAFETY: action.value, otel_names.ROUTER_MODE: mode.value}
        yield otel_names.SAFETY_REQUESTS, labels


def _places(registry: Registry) -> Iterator[tuple[str, str, str]]:
    """Where requests may go: a route, empty for none, one of its models, and the mode of both."""
    for model in dict.fromkeys(registry.defaults.values()):
        yield "", model, registry.mode.value
    for name, route in registry.routes.items():
        for model in _models(registry, name):
            yield name, model, (route.mode or registry.mode).value


def _models(registry: Registry, name: str) -> list[str]:
    route = registry.routes[name]
    tiers = registry.cascades[route.cascade].tiers if route.cascade else []
    return many(route.candidates) or [tier.model for tier in tiers]


def _decisions(registry: Registry) -> Iterator[Series]:
    optional = [
        *([Stage.LEXICAL] if registry.fast_path else []),
        *([Stage.LLM] if registry.llm else []),
    ]
    for route, model, mode in _places(registry):
        if route:
            for stage in (Stage.EMBEDDING, *optional):
                yield otel_names.DECISIONS, _decision(route, model, stage, Reason.MATCHED, mode)
        else:
            for reason in _ABSTAINED if registry.routes else (Reason.NO_ROUTES,):
                yield otel_names.DECISIONS, _decision("", model, Stage.DEFAULT, reason, mode)
    for rule in registry.rules:
        mode = registry.mode.value
        for model in _models(registry, rule.route) if rule.route else [rule.model] if rule.model else []:
            yield otel_names.DECISIONS, _decision(rule.route, model, Stage.RULE, Reason.RULE, mode)
    for reason in _UNDECIDED:
        yield otel_names.DECISIONS, _decision("", "", Stage.DEFAULT, reason, registry.mode.value)


def _doubts(registry: Registry) -> Iterator[Series]:
    if registry.llm is not None:
        for result in LlmResult:
            opinion = LlmOpinion(result=result, model=ModelName(registry.llm.model))
            yield otel_names.LLM_REQUESTS, llm_labels(opinion)


def llm_labels(opinion: LlmOpinion) -> Labels:
    """The labels of a question to an LLM."""
    return {
        otel_names.RESULT: opinion.result.value,
        otel_names.ROUTER_MODEL: opinion.model,
        otel_names.CACHED: opinion.cached,
    }


def _cascades(registry: Registry) -> Iterator[Series]:
    for name, cascade in registry.cascades.items():
        labels = {otel_names.ROUTER_CASCADE: name}
        for answered, calls in product([*map(str, range(len(cascade.tiers))), LAST_RESORT], _CALLS):
            yield (
                otel_names.CASCADE_EXCHANGES,
                {**labels, otel_names.ROUTER_TIER: answered, otel_names.ROUTER_CALLS: calls},
            )
        yield otel_names.CASCADE_COST, labels
        yield otel_names.CASCADE_REFERENCE_COST, labels
        for number, tier in enumerate(cascade.tiers):
            if tier.gate:
                place = {**labels, otel_names.ROUTER_TIER: str(number)}
                yield otel_names.CASCADE_WASTED, place
                yield otel_names.CASCADE_VERDICTS, _verdict(place, "accept")
                for reason in reasons_of(registry.gates[tier.gate]):
                    yield otel_names.CASCADE_VERDICTS, _verdict(place, "escalate", reason)


def _verdict(place: Labels, verdict: str, reason: str = "") -> Labels:
    return {**place, otel_names.ROUTER_VERDICT: verdict, otel_names.ROUTER_VERDICT_REASON: reason}


def _exchange(route: str, model: str, status: str, mode: str, *, bypassed: bool = False) -> Labels:
    return {
        otel_names.ROUTER_ROUTE: route,
        otel_names.ROUTER_MODEL: model,
        otel_names.ROUTER_STATUS_CLASS: status,
        otel_names.ROUTER_BYPASSED: bypassed,
        otel_names.ROUTER_MODE: mode,
    }


def _decision(route: str, model: str, stage: Stage, reason: Reason, mode: str) -> Labels:
    return {
        otel_names.ROUTER_ROUTE: route,
        otel_names.ROUTER_MODEL: model,
        otel_names.ROUTER_STAGE: stage.value,
        otel_names.ROUTER_REASON: reason.value,
        otel_names.ROUTER_MODE: mode,
    }


class Counters:
    """Makes the counters of one meter, and remembers them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Counter] = {}

    def create(self, name: str, description: str) -> Counter:
        """A counter; each name is made once."""
        self._made[name] = counter = self._meter.create_counter(name, description=description)
        return counter

    def begin(self, series: Iterable[Series]) -> None:
        """Begin each of these series at 0; one that has begun goes on as it is."""
        for name, labels in series:
            self._made[name].add(0, labels)

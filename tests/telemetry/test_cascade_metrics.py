"""What cascades did, on metrics, and the alarm for a gate that does not do what it was calibrated for."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.exchanges import Attempt, Exchange, Usage
from extproc.registry.cascade_settings import Band
from extproc.registry.model_settings import Model, PriceSettings
from extproc.registry.schema import Registry
from extproc.telemetry.cascade_metrics import Judged
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import AttemptRow
from extproc.telemetry.sinks import Outcome

PRICED = PriceList(
    {"code": PriceSettings(input=1.0, output=1.0), "large": PriceSettings(input=10.0, output=10.0)},
    reference="large",
)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.close()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def attempt(verdict: str, tier: int | None = 0, cost: float | None = None) -> AttemptRow:
    return AttemptRow(
        time=datetime.fromtimestamp(0, UTC), request_id="a", attempt=1, model="code", cascade="frugal", tier=tier,
        verdict=verdict, verdict_reason="refusal/refusal_text" if verdict == "escalate" else "", wasted_cost_usd=cost,
    )  # fmt: skip


def test_exchanges_are_counted_by_who_answered_after_how_many_calls(
    metrics: Metrics, outcome: Callable[..., Outcome], exchange: Callable[..., Exchange]
) -> None:
    usage = Usage(input=1_000_000, output=0)
    asked = [("code", 0), ("code", 1), ("large", None)]
    for calls in (1, 3):
        tried = tuple(
            Attempt(exchange(envelope=None, usage=usage), number, model, cascade="frugal", tier=tier)
            for number, (model, tier) in enumerate(asked[:calls], 1)
        )
        metrics.accept(outcome(PRICED, usage=usage, tried=tried, attempts=calls, served_by=tried[-1].model))
    metrics.accept(outcome(PRICED, usage=usage))
    name = "router_cascade_exchanges_total"
    assert value(metrics, name, router_cascade="frugal", router_tier="0", router_calls="1") == 1
    assert value(metrics, name, router_cascade="frugal", router_tier="last resort", router_calls="3") == 1
    assert value(metrics, "router_cascade_cost_usd_total") == 1.0 + 12.0
    assert value(metrics, "router_cascade_reference_cost_usd_total") == 20.0


def test_verdicts_are_counted_with_their_reason_and_what_was_wasted(metrics: Metrics) -> None:
    for row in (
        attempt("accept"),
        attempt("escalate", cost=0.5),
        attempt("escalate"),
        attempt(""),
        attempt("accept", 1),
    ):
        metrics.attempted(row, None)
    name = "router_cascade_verdicts_total"
    told = {"router_verdict": "escalate", "router_verdict_reason": "refusal/refusal_text"}
    assert value(metrics, name, router_tier="0", **told) == 2
    assert value(metrics, name, router_tier="0", router_verdict="accept") == 1
    assert value(metrics, "router_cascade_wasted_usd_total", router_tier="0") == 0.5
    assert value(metrics, "router_cascade_escalation_share", router_tier="0") == pytest.approx(2 / 3)
    assert value(metrics, "router_cascade_escalation_share", router_tier="1") == 0.0


def test_an_alarm_rings_while_the_gate_refuses_another_share_than_it_was_calibrated_for(
    metrics: Metrics,
) -> None:
    known = Registry(models={"code": Model(base_url="http://127.0.0.1:1")}, default="code")
    metrics.expect(known, {("frugal", 0): Band(least=0.1, most=0.3)})
    for bound, share in (("least", 0.1), ("most", 0.3)):
        assert value(metrics, "router_cascade_escalation_expected", router_tier="0", bound=bound) == share
    name = "router_cascade_escalation_alarm"

    def judged(refused: int, kept: int) -> float | None:
        for verdict, times in (("escalate", refused), ("accept", kept)):
            for _ in range(times):
                metrics.attempted(attempt(verdict), None)
        return value(metrics, name, router_cascade="frugal", router_tier="0")

    assert value(metrics, name) is None
    assert judged(99, 0) == 0.0
    assert judged(1, 0) == 1.0
    assert judged(100, 400) == 0.0
    assert judged(0, 500) == 1.0


@pytest.mark.parametrize(
    ("share", "verdicts", "outside"),
    [(0.2, 500, False), (0.33, 500, False), (0.37, 500, True), (0.37, 100, False), (0.07, 500, False), (0.05, 500, True)],
)  # fmt: skip
def test_what_chance_explains_is_no_alarm(share: float, verdicts: int, outside: bool) -> None:
    assert Judged(share, verdicts).is_outside(Band(least=0.1, most=0.3)) is outside

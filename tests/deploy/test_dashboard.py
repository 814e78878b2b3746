"""The Grafana dashboard asks only for metrics, and labels of them, that the sidecar has."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from extproc.registry.cascades import Band
from extproc.registry.schema import Telemetry
from extproc.registry.upstreams import Price
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import attempt_row_of
from extproc.telemetry.sinks import Outcome, outcome_of
from extproc.vocabulary import (
    Attempt,
    BodyPolicy,
    Comparison,
    Decision,
    Envelope,
    Exchange,
    Offer,
    Reason,
    Ruling,
    Stage,
    StageTimes,
    Usage,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
OF_THE_SCRAPE = {"job", "instance"}
# Of Envoy's own page: tests/envoyconf/test_outcomes.py holds that it has them.
ENVOYS = {"envoy_access_logs_grpc_access_log_logs_written", "envoy_access_logs_grpc_access_log_logs_dropped"}


PRICES = PriceList({"m": Price(input=1.0, output=1.0)}, reference="m")


def outcome(**fields: object) -> Outcome:
    known = {
        "request_id": "r", "started_at": 1.0, "duration": 1.0, "first_byte": 0.1, "status": 200, "flags": (),
        "method": "POST", "path": "/v1/chat/completions", "cluster": "c", "request_bytes": 1, "response_bytes": 1,
        "envelope": Envelope(api="openai.chat", route="r", model="m", upstream_model="u", parse_us=1, total_us=1),
    }  # fmt: skip
    exchange = Exchange(**(known | fields))  # type: ignore[arg-type]
    return outcome_of(exchange, lambda version: PRICES, lambda version: Telemetry())


def cascade(metrics: Metrics) -> None:
    """A request of one whose answer cost something and was refused, and what was expected of the gate."""
    usage = Usage(input=1, output=2)
    call = Exchange(
        request_id="r", started_at=1.0, duration=1.0, first_byte=0.1, status=200, flags=(), method="POST",
        path="/v1/chat/completions", cluster="c", request_bytes=1, response_bytes=1, envelope=None, usage=usage,
    )  # fmt: skip
    ruling = Ruling(escalate=True, gate="g", reason="refusal/refusal_text")
    tried = Attempt(call, 1, "m", cascade="frugal", tier=0, ruling=ruling)
    metrics.attempted(PRICES.of_attempt(attempt_row_of(tried)), None)
    metrics.expect_escalation({("frugal", 0): Band(least=0.1, most=0.3)})
    metrics.accept(outcome(usage=usage, tried=(tried,), attempts=3))


@pytest.fixture(scope="module")
def page() -> dict[str, set[str]]:
    """Every metric as the page prints it, with its labels."""
    metrics = Metrics()
    metrics.watch_encoder(model="m", device="cpu", precision="int8", waiting=lambda: 0)
    metrics.watch_registry(lambda: "v1")
    metrics.watch_admission(lambda: 0, lambda: 0)
    metrics.watch_dropped({"records": lambda: 0})
    metrics.watch_deleted(lambda: 0)
    metrics.failed("decide")
    metrics.restarted("embedding queue", 0)
    metrics.reloaded("loaded")
    metrics.heard("accepted")
    answered = Usage(input=1, output=2, first_token_at=1.5)
    metrics.accept(outcome(usage=answered))
    metrics.accept(outcome(envelope=Envelope(error="denied"), status=400))
    cascade(metrics)
    metrics.watch_fast_path(lambda: True)
    times = StageTimes(rules=1, queue=1, embed=1, score=1, total=1)
    metrics.decided(
        Decision(
            "r", "m", BodyPolicy(model="u"), "c", Stage.EMBEDDING, Reason.MATCHED, "v1", probability=0.9,
            margin=0.8, similarity=0.7, times=times,
            offers=(Offer("m", 0.9, 0.1),), comparison=Comparison(agreed=True, weight=20.0),
        )
    )  # fmt: skip
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    metrics.close()
    return found


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that it selects or that it is grouped by."""
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(", ")}
    for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
        yield name, grouped | set(re.findall(r"(\w+)=", selectors))


def test_every_metric_and_label_that_is_asked_for_exists(page: dict[str, set[str]]) -> None:
    for expression in expressions():
        found = list(asked(expression))
        assert found, expression
        for name, labels in found:
            if name in ENVOYS:
                continue
            assert name in page, expression
            assert labels - OF_THE_SCRAPE <= page[name], expression


def test_every_metric_is_on_the_dashboard(page: dict[str, set[str]]) -> None:
    shown = {name for expression in expressions() for name, _ in asked(expression)}
    own = {name for name in page if name.startswith(("router_", "gen_ai_"))}
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in own if not name.endswith("_created")}
    assert stems == {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown - ENVOYS}


def test_legends_name_labels_of_their_query() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            known = {label for _, labels in asked(target["expr"]) for label in labels}
            assert legend <= known | OF_THE_SCRAPE, target["expr"]


def test_values_that_are_selected_by_are_ours() -> None:
    reasons = {reason.value for reason in Reason}
    for expression in expressions():
        for values in re.findall(r'router_reason=~"([^"]*)"', expression):
            assert set(values.split("|")) <= reasons


def test_panels_have_places_of_their_own() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_the_collector_hands_traces_to_the_table_that_the_store_reads() -> None:
    config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    pipelines = config["service"]["pipelines"]
    assert pipelines["traces"]["exporters"] == ["clickhouse"]
    assert config["exporters"]["clickhouse"]["traces_table_name"] == "otel_traces"
    # A sidecar sends both to one endpoint: a collector that takes one of them would refuse the other.
    assert pipelines.keys() == {"traces", "metrics"}
    for pipeline in pipelines.values():
        assert pipeline["receivers"] == ["otlp"]
        assert set(pipeline["processors"]) <= config["processors"].keys()
        assert set(pipeline["exporters"]) <= config["exporters"].keys()

"""The Grafana dashboard asks only for metrics, and labels of them, that the sidecar has."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.every_metric import labels_by_metric
from extproc.vocabulary import Reason

DEPLOY = Path(__file__).parents[2] / "deploy"
OF_THE_SCRAPE = {"job", "instance"}
# Of Envoy's own page: tests/envoyconf/test_outcome_logs.py holds that it has them.
ENVOYS = {"envoy_access_logs_grpc_access_log_logs_written", "envoy_access_logs_grpc_access_log_logs_dropped"}


@pytest.fixture(scope="module")
def page() -> Mapping[str, set[str]]:
    """Every metric as the page prints it, with its labels."""
    return labels_by_metric()


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels that it selects or that it is grouped by."""
    grouped = {name for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(", ")}
    for name, selectors in re.findall(r"(\w+)\{([^}]*)\}", expression):
        yield name, grouped | set(re.findall(r"(\w+)=", selectors))


def test_every_metric_and_label_that_is_asked_for_exists(page: Mapping[str, set[str]]) -> None:
    for expression in expressions():
        found = list(asked(expression))
        assert found, expression
        for name, labels in found:
            if name in ENVOYS:
                continue
            assert name in page, expression
            assert labels - OF_THE_SCRAPE <= page[name], expression


def test_every_metric_is_on_the_dashboard(page: Mapping[str, set[str]]) -> None:
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

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import Any

import msgspec
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client.parser import text_string_to_metric_families

from extproc import __version__
from extproc.exchanges import Usage
from extproc.registry.cascade_settings import Cascade, Gate, Tier
from extproc.registry.live_registry import Result
from extproc.registry.model_settings import Model, PriceSettings
from extproc.registry.schema import Registry, RouteSettings, RuleSettings, When
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.pricing import PriceList
from extproc.telemetry.rows import AttemptRow
from extproc.telemetry.sinks import Outcome
from extproc.vocabulary import (
    BodyPolicy,
    Decision,
    FastPathComparison,
    Mode,
    Offer,
    Reason,
    Stage,
    StageTimes,
)

Make = Callable[..., Outcome]

BY_RULE = Decision(
    route="code",
    model="small",
    policy=BodyPolicy(model="qwen3-8b"),
    cluster="model-small",
    stage=Stage.RULE,
    reason=Reason.RULE,
    version="v1",
    times=StageTimes(total=20),
)
BY_MEANING = Decision(
    route="code",
    model="large",
    policy=BodyPolicy(model="qwen3-coder"),
    cluster="model-large",
    stage=Stage.EMBEDDING,
    reason=Reason.MATCHED,
    version="v1",
    probability=0.97,
    margin=0.94,
    similarity=-0.2,
    times=StageTimes(rules=30, queue=0, embed=2_400, score=170, total=2_600),
)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.close()


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def ours(page: bytes) -> list[bytes]:
    """The lines of a page that only what was counted changes."""
    return [line for line in page.splitlines() if b"process_" not in line]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


KNOWN = Registry(
    models={
        "small": Model(base_url="http://h:1", price=PriceSettings(input=1.0, output=2.0)),
        "large": Model(base_url="http://h:2"),
    },
    default="large",
    routes={"code": RouteSettings(candidates=["small", "large"]), "frugal": RouteSettings(cascade="cheap")},
    rules=[RuleSettings(name="r", when=When(keyword=["x"]), route="code")],
    cascades={"cheap": Cascade(tiers=[Tier(model="small", gate="g"), Tier(model="large")])},
    gates={"g": Gate(finish=True)},
)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("router_failures_total", {"error_type": "access_log"}),
        ("router_feedback_total", {"result": "accepted"}),
        ("router_feedback_total", {"result": "unauthorized"}),
        ("router_registry_reloads_total", {"result": "refused"}),
        ("router_fast_path_comparisons_total", {"result": "disagreed"}),
        ("router_refusals_total", {"error_type": "denied", "router_mode": "active"}),
        ("router_cost_usd_total", {"router_route": "code", "router_model": "small"}),
        (
            "router_model_attempts_total",
            {"router_model": "small", "router_status_class": "2xx", "error_type": ""},
        ),
        (
            "router_decisions_total",
            {
                "router_route": "", "router_model": "", "router_stage": "default", "router_reason": "deadline",
                "router_mode": "active",
            },
        ),
        (
            "router_decisions_total",
            {
                "router_route": "code", "router_model": "large", "router_stage": "embedding",
                "router_reason": "matched", "router_mode": "active",
            },
        ),
        (
            "router_exchanges_total",
            {
                "router_route": "", "router_model": "", "router_status_class": "2xx", "router_bypassed": "true",
                "router_mode": "unknown",
            },
        ),
        (
            "router_exchanges_total",
            {
                "router_route": "frugal", "router_model": "small", "router_status_class": "5xx",
                "router_bypassed": "false", "router_mode": "active",
            },
        ),
        (
            "router_cascade_exchanges_total",
            {"router_cascade": "cheap", "router_tier": "1", "router_calls": "2"},
        ),
        (
            "router_cascade_verdicts_total",
            {
                "router_cascade": "cheap", "router_tier": "0", "router_verdict": "escalate",
                "router_verdict_reason": "finish/truncated",
            },
        ),
        ("router_cascade_wasted_usd_total", {"router_cascade": "cheap", "router_tier": "0"}),
    ],
)  # fmt: skip
def test_what_is_known_beforehand_begins_at_0(metrics: Metrics, name: str, labels: dict[str, str]) -> None:
    assert value(metrics, name, **labels) is None
    metrics.expect(KNOWN)
    assert value(metrics, name, **labels) == 0.0


def test_a_registry_that_comes_later_takes_nothing_from_what_was_counted(metrics: Metrics) -> None:
    metrics.expect(KNOWN)
    metrics.failed("decide")
    metrics.expect(KNOWN)
    assert value(metrics, "router_failures_total", error_type="decide") == 1.0


def test_every_series_of_a_counter_that_begins_at_0_has_the_labels_of_its_events(
    metrics: Metrics, outcome: Make
) -> None:
    """Else the zeros would stand beside the events instead of before them."""
    metrics.expect(KNOWN)
    metrics.decided(BY_RULE)
    metrics.accept(outcome())
    found: dict[str, set[frozenset[str]]] = {}
    for name, labels in samples(metrics):
        found.setdefault(name, set()).add(frozenset(key for key, _ in labels))
    assert {name for name, keys in found.items() if name.startswith("router_") and len(keys) > 1} <= {
        name for name in found if name.endswith("_bucket")
    }


def test_every_series_is_on_the_page_once(metrics: Metrics, outcome: Make) -> None:
    """Prometheus keeps one of two samples of a series: the 0, and the counter never moves."""
    metrics.expect(KNOWN)
    for decision in (BY_RULE, BY_MEANING):
        metrics.decided(decision)
    for mode in Mode:
        metrics.undecided(Reason.DEADLINE, mode)
    for result in Result:
        metrics.reloaded(result)
    metrics.accept(outcome())
    counted = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    ]
    assert [series for series, times in Counter(counted).items() if times > 1] == []


def test_the_process_tells_its_cpu_memory_and_files(metrics: Metrics) -> None:
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        found = value(metrics, f"process_{name}")
        assert found is not None
        assert found > 0


def test_decisions_are_counted_by_where_they_led_and_why(metrics: Metrics) -> None:
    for decision in (BY_RULE, BY_RULE, BY_MEANING):
        metrics.decided(decision)
    by_rule = {
        "router_route": "code",
        "router_model": "small",
        "router_stage": "rule",
        "router_reason": "rule",
        "router_mode": "active",
    }
    assert value(metrics, "router_decisions_total", **by_rule) == 2
    by_meaning = by_rule | {"router_model": "large", "router_stage": "embedding", "router_reason": "matched"}
    assert value(metrics, "router_decisions_total", **by_meaning) == 1


def test_what_the_fast_path_and_the_encoder_agree_on_is_counted(metrics: Metrics) -> None:
    metrics.decided(BY_MEANING)
    for agreed in (True, True, False):
        metrics.decided(
            msgspec.structs.replace(BY_MEANING, comparison=FastPathComparison(agreed=agreed, weight=20.0))
        )
    assert value(metrics, "router_fast_path_comparisons_total", result="agreed") == 2
    assert value(metrics, "router_fast_path_comparisons_total", result="disagreed") == 1


@pytest.mark.parametrize(("opened", "shown"), [(True, 1), (False, 0), (None, None)])
def test_whether_the_fast_path_decides_is_shown_where_there_is_one(
    metrics: Metrics, opened: bool | None, shown: int | None
) -> None:
    metrics.watch_fast_path(lambda: opened)
    assert value(metrics, "router_fast_path_open") == shown


def test_decisions_that_are_only_observed_are_counted_apart(metrics: Metrics, outcome: Make) -> None:
    metrics.decided(BY_RULE)
    metrics.decided(msgspec.structs.replace(BY_RULE, mode=Mode.OBSERVE))
    metrics.undecided(Reason.UNKNOWN_VERSION, Mode.OBSERVE)
    metrics.accept(outcome(mode="observe", route="", would_route="code"))
    counted = {
        (labels["router_route"], labels["router_mode"]): count
        for (name, pairs), count in samples(metrics).items()
        if name in ("router_decisions_total", "router_exchanges_total") and (labels := dict(pairs))
    }
    assert counted == {("code", "active"): 1, ("code", "observe"): 1, ("", "observe"): 1}


def test_a_mode_that_no_sidecar_has_is_no_label(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome(mode="forged"))
    assert b"forged" not in metrics.render()
    assert b'router_mode="unknown"' in metrics.render()


def test_only_steps_that_ran_are_timed_in_seconds(metrics: Metrics) -> None:
    metrics.decided(BY_RULE)
    assert value(metrics, "router_step_duration_seconds_sum", router_step="total") == pytest.approx(20e-6)
    assert value(metrics, "router_step_duration_seconds_count", router_step="embed") is None
    metrics.decided(BY_MEANING)
    assert value(metrics, "router_step_duration_seconds_sum", router_step="embed") == pytest.approx(2.4e-3)
    assert value(metrics, "router_step_duration_seconds_count", router_step="queue") == 1
    assert value(metrics, "router_step_duration_seconds_bucket", router_step="total", le="2.5e-05") == 1


def test_a_decision_without_scores_is_in_no_score_histogram(metrics: Metrics) -> None:
    metrics.decided(BY_RULE)
    assert not [name for name, _ in samples(metrics) if name.startswith("router_decision_margin")]
    metrics.decided(BY_MEANING)
    assert value(metrics, "router_decision_margin_bucket", router_route="code", le="0.95") == 1
    assert value(metrics, "router_decision_margin_bucket", router_route="code", le="0.9") == 0
    assert value(metrics, "router_decision_probability_sum", router_route="code") == pytest.approx(0.97)


def test_predicted_quality_is_counted_by_route_and_chosen_model_alone(metrics: Metrics) -> None:
    metrics.decided(BY_MEANING)
    assert not [name for name, _ in samples(metrics) if name.startswith("router_decision_quality")]
    offers = (Offer("small", 0.31, 0.1), Offer("large", 0.85, 1.0))
    metrics.decided(msgspec.structs.replace(BY_MEANING, offers=offers))
    told = {
        labels: found
        for (name, labels), found in samples(metrics).items()
        if name == "router_decision_quality_sum"
    }
    assert told == {frozenset({("router_route", "code"), ("router_model", "large")}): pytest.approx(0.85)}


def test_the_similarity_to_the_training_of_predicted_quality_is_counted_by_route(metrics: Metrics) -> None:
    metrics.decided(BY_MEANING)
    name = "router_decision_training_similarity_sum"
    assert not [found for found, _ in samples(metrics) if found == name]
    metrics.decided(msgspec.structs.replace(BY_MEANING, training_similarity=0.4))
    assert value(metrics, name, router_route="code") == pytest.approx(0.4)


def test_a_similarity_below_zero_is_counted_as_none_at_all(metrics: Metrics) -> None:
    metrics.decided(BY_MEANING)
    assert value(metrics, "router_decision_similarity_bucket", router_route="code", le="0.02") == 1
    assert value(metrics, "router_decision_similarity_sum", router_route="code") == 0


def test_refused_requests_are_counted_by_the_error_of_their_envelope(metrics: Metrics, outcome: Make) -> None:
    for label in ("denied", "bad_request", "denied"):
        metrics.accept(outcome(status=400, error=label))
    metrics.accept(outcome(status=400))  # the provider's word, not ours
    metrics.accept(outcome(mode="observe", reason="denied"))
    told = {"router_mode": "active"}
    assert value(metrics, "router_refusals_total", error_type="denied", **told) == 2
    assert value(metrics, "router_refusals_total", error_type="bad_request", **told) == 1
    assert value(metrics, "router_refusals_total", error_type="400", **told) is None
    assert value(metrics, "router_refusals_total", error_type="denied", router_mode="observe") == 1


def test_failures_are_counted_by_where_they_happened(metrics: Metrics) -> None:
    metrics.failed("decide")
    metrics.failed("decide")
    metrics.failed("protocol")
    assert value(metrics, "router_failures_total", error_type="decide") == 2
    assert value(metrics, "router_failures_total", error_type="protocol") == 1


def test_parsing_is_timed_when_the_exchange_tells_of_it(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome(parse_us=None))
    assert value(metrics, "router_step_duration_seconds_count", router_step="parse") is None
    metrics.accept(outcome(parse_us=40))
    assert value(metrics, "router_step_duration_seconds_sum", router_step="parse") == pytest.approx(40e-6)


def test_exchanges_are_counted_by_outcome_bypassed_ones_too(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome())
    metrics.accept(outcome(status=503))
    metrics.accept(outcome(status=0))
    metrics.accept(outcome(envelope=None))
    counted = {
        (labels["router_route"], labels["router_status_class"], labels["router_bypassed"]): count
        for (name, pairs), count in samples(metrics).items()
        if name == "router_exchanges_total" and (labels := dict(pairs))
    }
    assert counted == {
        ("code", "2xx", "false"): 1,
        ("code", "5xx", "false"): 1,
        ("code", "none", "false"): 1,
        ("", "2xx", "true"): 1,
    }


def test_calls_are_timed_by_model_and_error(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome())
    metrics.accept(outcome(status=503, flags=("UF",), duration=0.5, first_byte=None))
    call = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "acme",
        "gen_ai_request_model": "qwen3-coder",
    }
    duration = "gen_ai_server_request_duration_seconds_sum"
    assert value(metrics, duration, **call, error_type="") == 1.5
    assert value(metrics, duration, **call, error_type="UF") == 0.5
    assert value(metrics, "router_upstream_first_byte_seconds_sum", **call) == 0.125
    assert value(metrics, "router_upstream_first_byte_seconds_count", **call) == 1


CALL = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "acme",
    "gen_ai_request_model": "qwen3-coder",
}


def test_tokens_are_counted_by_model_and_kind_and_only_where_they_are_known(
    metrics: Metrics, outcome: Make
) -> None:
    metrics.accept(outcome(usage=Usage(input=100, output=0)))
    metrics.accept(outcome(usage=Usage(input=20)))
    metrics.accept(outcome())
    tokens = "gen_ai_client_token_usage"
    assert value(metrics, f"{tokens}_sum", **CALL, gen_ai_token_type="input") == 120
    assert value(metrics, f"{tokens}_count", **CALL, gen_ai_token_type="output") == 1


def test_a_stream_tells_its_first_token_and_the_time_of_each_that_follows(
    metrics: Metrics, outcome: Make
) -> None:
    seen = Usage(output=11, first_token_at=1_795_000_000.75)
    metrics.accept(outcome(usage=seen))  # from 0.5 s to 1.5 s, ten more tokens
    metrics.accept(outcome(usage=Usage(output=11)))  # whose first token nobody saw
    metrics.accept(outcome(usage=seen, flags=("UT",)))  # cut: how many tokens it was is not known
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_sum", **CALL) == pytest.approx(1.0)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count", **CALL) == 2
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_sum", **CALL) == pytest.approx(0.1)
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_count", **CALL) == 1


PRICES = PriceList(
    {"code": PriceSettings(input=1.0, output=2.0), "large": PriceSettings(input=3.0, output=9.0)}, "large"
)


def test_money_is_counted_with_what_the_reference_would_have_cost(metrics: Metrics, outcome: Make) -> None:
    usage = Usage(input=1_000_000, output=1_000_000)
    metrics.accept(outcome(prices=PRICES, usage=usage))
    metrics.accept(outcome(prices=PRICES, usage=usage, model="large"))
    metrics.accept(outcome(prices=PRICES))  # tokens not known
    code = {"router_route": "code", "router_model": "code"}
    assert value(metrics, "router_cost_usd_total", **code) == 3.0
    assert value(metrics, "router_reference_cost_usd_total", **code) == 12.0
    large = {"router_route": "code", "router_model": "large"}
    assert value(metrics, "router_cost_usd_total", **large) == 12.0
    assert value(metrics, "router_reference_cost_usd_total", **large) == 12.0


def test_without_a_reference_nothing_is_said_to_be_saved(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome(prices=PriceList(PRICES.prices), usage=Usage(input=1, output=1)))
    names = {name for name, _ in samples(metrics)}
    assert "router_cost_usd_total" in names
    assert not [name for name in names if "reference" in name]


def test_what_routing_costs_is_a_share_of_the_whole(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome(duration=1.306))  # of which 2.612 ms were the decision's
    metrics.accept(outcome(envelope=None))
    assert value(metrics, "router_overhead_share_sum") == pytest.approx(0.002)
    assert value(metrics, "router_overhead_share_count") == 1


def test_what_called_no_model_is_not_timed_as_a_call(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome(status=400, error="bad_request"))
    metrics.accept(outcome(envelope=None, path="/healthz"))
    assert not [name for name, _ in samples(metrics) if name.startswith("gen_ai")]


def test_strings_that_clients_send_become_no_label(metrics: Metrics, outcome: Make) -> None:
    metrics.accept(outcome())
    before = len(samples(metrics))
    for number in range(300):
        hostile = f'"}}\n# {number} \\'
        metrics.accept(
            outcome(
                original_model=hostile,
                request_id=hostile,
                method=hostile,
                path=f"/v1/{hostile}",
                traceparent=hostile,
                prompt=hostile,
                usage=Usage(finish=hostile, response_id=hostile, response_model=hostile),
            )
        )
    assert len(samples(metrics)) == before


def test_label_sets_are_bounded_even_when_the_envelope_is_forged(metrics: Metrics, outcome: Make) -> None:
    for number in range(3000):
        metrics.accept(outcome(route=f"forged-{number}", duration=None, first_byte=None))
    exchanges = [name for name, _ in samples(metrics) if name == "router_exchanges_total"]
    assert len(exchanges) <= 2001


def test_gauges_show_what_is_watched_now(metrics: Metrics) -> None:
    waiting, version = 3, "v1"
    metrics.watch_encoder(model="minilm", device="cpu", precision="int8", waiting=lambda: waiting)
    metrics.watch_registry(lambda: version)
    assert value(metrics, "router_encoder_info", model="minilm", device="cpu", precision="int8") == 1
    assert value(metrics, "router_encoder_queue") == 3
    assert value(metrics, "router_registry_info", version="v1") == 1
    waiting, version = 0, "v2"
    assert value(metrics, "router_encoder_queue") == 0
    assert value(metrics, "router_registry_info", version="v1") is None
    assert value(metrics, "router_registry_info", version="v2") == 1


def test_reloads_are_counted_by_what_became_of_them(metrics: Metrics) -> None:
    for result in (Result.LOADED, Result.REFUSED, Result.LOADED):
        metrics.reloaded(result)
    assert value(metrics, "router_registry_reloads_total", result="loaded") == 2
    assert value(metrics, "router_registry_reloads_total", result="refused") == 1


def test_feedback_is_counted_by_what_became_of_it(metrics: Metrics) -> None:
    for result in ("accepted", "accepted", "unauthorized"):
        metrics.feedback_received(result)
    assert value(metrics, "router_feedback_total", result="accepted") == 2.0
    assert value(metrics, "router_feedback_total", result="unauthorized") == 1.0


def test_what_is_left_to_envoy_is_a_decision_for_nobody(metrics: Metrics) -> None:
    metrics.undecided(Reason.UNKNOWN_VERSION)
    labels = {"router_route": "", "router_model": "", "router_stage": "default", "router_mode": "active"}
    assert value(metrics, "router_decisions_total", **labels, router_reason="unknown_version") == 1


def test_what_telemetry_loses_is_counted_by_sink(metrics: Metrics) -> None:
    metrics.watch_dropped({"records": lambda: 7, "spans": lambda: 0})
    assert value(metrics, "router_telemetry_dropped_total", router_sink="records") == 7
    assert value(metrics, "router_telemetry_dropped_total", router_sink="spans") == 0


def test_segments_that_made_room_are_counted(metrics: Metrics) -> None:
    metrics.watch_deleted(lambda: 3)
    assert value(metrics, "router_record_segments_deleted_total") == 3


def test_the_page_tells_the_build(metrics: Metrics) -> None:
    labels = [dict(pairs) for (name, pairs) in samples(metrics) if name == "router_build_info"]
    assert [label["version"] for label in labels] == [__version__]


def test_two_instances_share_nothing(metrics: Metrics) -> None:
    other = Metrics()
    other.failed("decide")
    assert value(metrics, "router_failures_total", error_type="decide") is None
    other.close()


def test_scrapes_at_the_same_time_each_get_the_whole_page(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.failed("decide")
    whole = metrics.render()
    first_collected, second_collected, first_done = Event(), Event(), Event()

    def between_collecting_and_rendering() -> None:
        if not first_collected.is_set():
            first_collected.set()
            second_collected.wait(0.2)  # in vain, when scrapes take turns
        else:
            second_collected.set()
            assert first_done.wait(30)

    receive = PrometheusMetricReader._receive_metrics

    def receive_and_pause(reader: PrometheusMetricReader, *args: Any, **kwargs: Any) -> None:
        receive(reader, *args, **kwargs)
        between_collecting_and_rendering()

    monkeypatch.setattr(PrometheusMetricReader, "_receive_metrics", receive_and_pause)
    with ThreadPoolExecutor(2) as scrapers:
        first = scrapers.submit(metrics.render)
        first.add_done_callback(lambda _: first_done.set())
        assert first_collected.wait(30)
        second = scrapers.submit(metrics.render)
        pages = [ours(page) for page in (first.result(), second.result(), whole)]
        assert pages[0] == pages[1] == pages[2]


def test_attempts_are_counted_by_model_and_what_became_of_them(metrics: Metrics) -> None:
    for status, error in ((503, "503"), (200, ""), (None, "DR")):
        metrics.attempted(
            AttemptRow(
                time=datetime.fromtimestamp(0, UTC),
                request_id="a",
                attempt=1,
                model="small",
                status=status,
                error=error,
            ),
            None,
        )
    name = "router_model_attempts_total"
    assert value(metrics, name, router_model="small", router_status_class="5xx", error_type="503") == 1
    assert value(metrics, name, router_model="small", router_status_class="2xx", error_type="") == 1
    assert value(metrics, name, router_model="small", router_status_class="none", error_type="DR") == 1

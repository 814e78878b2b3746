"""Observing through the real Envoy: nothing a client or a provider sees is changed, and all is recorded."""

import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from extproc.lab.store.record_store import open_store
from extproc.lab.store.segment_loading import load, prepare
from extproc.lab.traffic.traffic_reading import read_report
from extproc.routing.rollout import place
from extproc.telemetry.segments import segment_paths
from extproc.vocabulary import Api
from tests.e2e.clients import DEFAULTS, of_all_apis
from tests.e2e.conftest import NAMES, Answer, World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

CARD = "my card number is 4111 1111 1111 1111"
CODE = "implement quicksort in python"
HELLO = "Good morning!"

# What would be routed, pinned, denied, abstained from and refused, by each kind of API.
REQUESTS: dict[str, tuple[str, bytes]] = {
    "routed": (
        "/v1/chat/completions",
        b'{ "messages":[{"role":"user","content":"Good morning! \\u00e9"}],\n"seed" : 1e2, "model":"auto"}',
    ),
    "streamed": (
        "/v1/chat/completions?a=b",
        b'{"stream":true,"model":"auto","messages":[{"content":"Good morning!","role":"user"}]}',
    ),
    "pinned": ("/v1/chat/completions", b'{"model":"large","messages":[{"role":"user","content":"hi"}]}'),
    "denied": ("/v1/chat/completions", b'{"model":"auto","messages":[{"role":"user","content":"%b"}]}' % CARD.encode()),
    "doubtful": ("/v1/chat/completions", b'{"model":"auto","messages":[{"role":"user","content":"asdkjh qwe zxc"}]}'),
    "bad": ("/v1/chat/completions", b'{"model":"auto"}'),
    "no JSON": ("/v1/chat/completions", b'{"model": "auto", "messages": ['),
    "empty": ("/v1/chat/completions", b""),
    "responses": ("/v1/responses", b'{"input":"Good morning!", "model":"auto"}'),
    "messages": (
        "/v1/messages",
        b'{"model":"auto","max_tokens":99,"messages":[{"role":"user","content":"Good morning!"}]}',
    ),
}  # fmt: skip

# What another answer to the same request may differ in.
_OF_THE_MOMENT = {"date", "x-request-id", "x-envoy-upstream-service-time", "request-id"}
_MADE_UP = re.compile(rb'[-_][0-9a-f]{16,}|"(created|created_at|completed_at)":[0-9.]+')
# What a provider gets beside: the ids of this very exchange.
_OF_THE_EXCHANGE = {"x-request-id", "traceparent", "tracestate"}


def observing(registry: Any) -> None:
    of_all_apis(registry)
    registry |= {
        "mode": "observe",
        "decision_ms": 10_000,  # what is decided must not depend on how busy the machine is
        "stream_usage": "ask",
        "trusted_headers": ["x-user"],
        "rollout_key": "x-user",
    }
    registry["routes"]["code"] |= {"mode": "active", "rollout": "50 %", "max_tokens": 7}
    registry["routes"]["greeting"] |= {"max_tokens": 7, "request_headers": {"x-team": "hello"}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in world_in(tmp_path_factory.mktemp("observing"), change=observing):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    shared.forget()
    return shared


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """An answer without what differs each time."""
    headers = {name: value for name, value in answer.headers.items() if name not in _OF_THE_MOMENT}
    return answer.status, headers, _MADE_UP.sub(b"", answer.body)


async def seen(world: World, path: str, body: bytes) -> tuple[Answer, dict[str, Any]]:
    """An answer, and all that a provider got for it."""
    world.forget()
    answer = await world.post(body, path)
    name, got = world.only_request()
    kept = {header: value for header, value in got.headers.items() if header not in _OF_THE_EXCHANGE}
    return answer, {"by": name, "path": got.path, "headers": kept, "body": got.body, "key": got.key}


async def test_observed_requests_are_what_envoy_alone_makes_of_them(shared: World) -> None:
    world = shared
    observed = {name: await seen(world, *request) for name, request in REQUESTS.items()}
    ids = [answer.headers["x-request-id"] for answer, _ in observed.values()]
    records = dict(zip(REQUESTS, await world.records(ids), strict=True))
    await world.stack.stop_sidecar(signal.SIGTERM)
    try:
        alone = {name: await seen(world, *request) for name, request in REQUESTS.items()}
    finally:
        await world.stack.start_sidecar()
        await world.stack.sidecars_used()
    for name in REQUESTS:
        assert observed[name][1] == alone[name][1], name
        assert told(observed[name][0]) == told(alone[name][0]), name
    assert {record["bypassed"] for record in records.values()} == {False}

    for name, record in records.items():
        assert (record["mode"], record["route"], record["refused"]) == ("observe", "", False), name
        assert record["model"] == observed[name][1]["by"] == DEFAULTS[Api(record["api"])], name
        assert record["cluster"] == f"model-{record['model']}", name
    decided = {
        name: (r["would_route"], r["would_model"], r["stage"], r["reason"]) for name, r in records.items()
    }
    assert decided == {
        "routed": ("greeting", "small", "embedding", "matched"),
        "streamed": ("greeting", "small", "embedding", "matched"),
        "pinned": ("", "large", "pin", "pinned"),
        "denied": ("", "", "deny", "denied"),
        "doubtful": ("", "mid", "default", "out_of_scope"),
        "bad": ("", "", "", "bad_request"),
        "no JSON": ("", "", "", "bad_request"),
        "empty": ("", "", "", "bad_request"),
        "responses": ("greeting", "small", "embedding", "matched"),
        "messages": ("greeting", "small", "embedding", "matched"),
    }
    assert records["denied"]["rule"] == "no-card-numbers"
    # A provider's own refusal is a failure of the exchange, not a refusal of ours.
    assert (records["bad"]["status"], records["bad"]["error"], records["bad"]["failed"]) == (400, "400", True)


async def test_an_observed_request_costs_what_its_default_does_and_tells_the_routed_price(
    world: World,
) -> None:
    answer = await world.post(chat(HELLO))
    used = answer.json()["usage"]
    (record,) = await world.records([answer.headers["x-request-id"]])
    tokens = used["prompt_tokens"], used["completion_tokens"]
    assert record["cost_usd"] == pytest.approx(priced(tokens, 0.80, 3.20))
    assert record["would_cost_usd"] == pytest.approx(priced(tokens, 0.15, 0.60))
    assert record["reference_cost_usd"] == pytest.approx(priced(tokens, 3.00, 15.00))
    with open_store(None) as store:
        prepare(store)
        for segment in segment_paths(world.stack.records):
            load(store, segment)
        made = read_report(store)
    assert made is not None
    assert made.observed is not None
    (greeting,) = [part for part in made.observed.parts if part.route == "greeting"]
    assert (greeting.model, greeting.refusal) == ("small", "")
    lines = map(msgspec.json.decode, world.record_text().splitlines())
    paired = [line for line in lines if line["would_route"] == "greeting" and line["cost_usd"] is not None]
    assert greeting.money.compared == len(paired) > 0
    saving = sum(line["cost_usd"] - line["would_cost_usd"] for line in paired)
    assert greeting.money.saving_usd == pytest.approx(saving)


async def test_a_denied_request_passes_while_observing_and_is_recorded_and_counted(world: World) -> None:
    before = await counted(world, "router_refusals_total", error_type="denied", router_mode="observe")
    answer = await world.post(chat(CARD))
    assert answer.status == 200
    assert world.only_request()[0] == "mid"
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["stage"], record["reason"], record["rule"]) == ("deny", "denied", "no-card-numbers")
    assert (record["refused"], record["error"], record["would_cost_usd"]) == (False, "", None)
    after = await counted(world, "router_refusals_total", error_type="denied", router_mode="observe")
    assert after == before + 1


async def test_a_share_of_a_route_is_obeyed_and_each_key_stays_on_its_side(world: World) -> None:
    users = [f"user-{number}" for number in range(24)]
    asked = [(user, await world.post(chat(CODE), x_user=user)) for user in users * 2]
    records = await world.records([answer.headers["x-request-id"] for _, answer in asked])
    sides: dict[str, set[str]] = {user: set() for user in users}
    for (user, answer), record in zip(asked, records, strict=True):
        sides[user].add(record["mode"])
        if record["mode"] == "active":
            assert (record["model"], record["route"], record["would_route"]) == ("code", "code", "")
            assert answer.headers["x-router-route"] == "code"
        else:
            assert (record["model"], record["route"], record["would_route"]) == ("mid", "", "code")
            assert not [header for header in answer.headers if header.startswith("x-router-")]
        assert answer.json()["model"] == NAMES[record["model"]]
    assert all(len(seen) == 1 for seen in sides.values())
    inside = {user for user, seen in sides.items() if seen == {"active"}}
    assert inside == {user for user in users if place(user, "code") < 0.5}
    assert 0 < len(inside) < len(users)
    limits = {
        msgspec.json.decode(got.body).get("max_completion_tokens") for got in world.pool["code"].journal
    }
    assert limits == {7}  # the route's policies hold for whom it is switched on


async def test_a_client_without_the_header_is_told_apart_by_its_conversation(world: World) -> None:
    named = [f"conversation-of-{name}" for name in ("anna", "bert", "cleo", "dora")]
    answers = [await world.post(chat(CODE, metadata={"session_id": name})) for name in named * 2]
    records = await world.records([answer.headers["x-request-id"] for answer in answers])
    for once, again in zip(records[:4], records[4:], strict=True):
        assert once["conversation_id"] == again["conversation_id"]
        inside = place(once["conversation_id"], "code") < 0.5
        assert once["mode"] == again["mode"] == ("active" if inside else "observe")
    assert len({record["conversation_id"] for record in records}) == len(named)
    assert not [name for name in named if name in world.record_text()]


async def test_decisions_are_counted_by_mode(world: World) -> None:
    labels = {"router_route": "greeting", "router_mode": "observe"}
    before = await counted(world, "router_decisions_total", **labels)
    await world.post(chat(HELLO))
    assert await counted(world, "router_decisions_total", **labels) == before + 1
    assert await counted(world, "router_decisions_total", router_route="greeting", router_mode="active") == 0


def priced(tokens: tuple[int, int], prompt: float, answer: float) -> float:
    return (tokens[0] * prompt + tokens[1] * answer) / 1e6


async def counted(world: World, name: str, **labels: str) -> float:
    """The sum over all samples of a metric that have these labels."""
    async with world.http.get(f"{world.stack.sidecar_admin_url}/metrics") as page:
        families = list(text_string_to_metric_families(await page.text()))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )

"""Labels through the real Envoy: no labelled request reaches a model that is not cleared for it."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from extproc.cli import main
from extproc.demo.model_pool import Behaviour
from extproc.telemetry.segments import segment_paths
from extproc.vocabulary import Api
from tests.e2e.clients import PATHS, ask, heard, of_all_apis
from tests.e2e.conftest import World, chat, world_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Models repeat the prompt after their name: this is the answer of `code` to a hard question.
DOUBT = r"\[demo-code-32b\].*the hard way"
EASY = "implement quicksort in python for PROJECT-7"
HARD = "implement quicksort in python, the hard way, for PROJECT-7"
ELSEWHERE = "PROJECT-7 zzxq vlorp"
NOT_CLEARED = {"small", "large", "guarded"}


def labelling(folder: Any) -> Any:
    def change(registry: Any) -> None:
        of_all_apis(registry)
        models = registry["models"]
        models["code"]["cleared_for"] = ["internal"]
        models["mid"]["cleared_for"] = ["internal", "pii"]
        registry["default"]["openai.chat"] = "large"
        registry["trusted_headers"] = [*registry.get("trusted_headers", []), "x-data-labels"]
        registry["clearance"] = {"header": "x-data-labels", "default": "mid"}
        registry["without_sidecar"] = "refuse"
        registry["rules"] += [
            {"name": "internal", "when": {"regex": r"PROJECT-\d+"}, "label": "internal"},
            {"name": "private", "when": {"keyword": "passport"}, "label": ["pii"]},
            {"name": "falls", "when": {"keyword": "fallbacks"}, "route": "falls"},
            {"name": "asks", "when": {"keyword": "opinions"}, "route": "asks"},
        ]
        registry["gates"] = {
            "sure": {"finish": True, "self_report": {"pattern": DOUBT}, "prefix_chars": 80},
            "agreed": {"finish": True, "second": {"model": "large", "deadline_s": 30}},
        }
        tiers = [{"model": "code", "gate": "sure"}, {"model": "large", "gate": "sure"}, {"model": "mid"}]
        asking = [{"model": "code", "gate": "agreed", "stream": "hold"}, {"model": "mid"}]
        registry["cascades"] = {"frugal": {"tiers": tiers}, "asking": {"tiers": asking}}
        examples = registry["routes"]["code"]["examples"]
        registry["routes"]["code"] = {"cascade": "frugal", "candidates": ["code"], "examples": examples}
        registry["routes"]["asks"] = {"cascade": "asking", "candidates": ["code"]}
        registry["routes"]["falls"] = {"candidates": ["code"], "fallback": ["large", "small", "mid"]}
        registry["envoy"] = {**registry.get("envoy", {}), "egress": f"unix:{folder}/e"}

    return change


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("clearance")
    async for world in world_in(folder, change=labelling(folder)):
        yield world


@pytest.fixture
def world(shared: World) -> World:
    return shared.as_at_first()


def only_cleared(world: World, *models: str) -> None:
    assert world.received().keys() == set(models)


def body(api: Api, text: str, **more: Any) -> dict[str, Any]:
    match api:
        case Api.OPENAI_COMPLETIONS:
            return {"model": "auto", "prompt": text, **more}
        case Api.OPENAI_RESPONSES:
            return {"model": "auto", "input": text, **more}
        case _:
            return chat(text, max_tokens=99, **more)


async def post(world: World, api: Api, text: str, labels: str = "", **more: Any) -> Any:
    headers = {"x_data_labels": labels} if labels else {}
    return await world.post(body(api, text, **more), PATHS[api], anthropic_version="2023-06-01", **headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_a_cleared_candidate_answers_and_the_record_has_the_labels(
    world: World, api: Api, stream: bool
) -> None:
    raw = await ask(world, api, EASY, stream=stream)
    assert (await heard(raw, stream)).startswith("[demo-code-32b]")
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert (record["labels"], record["model"], record["served_by"]) == (["internal"], "code", "code")
    only_cleared(world, "code")
    (request,) = world.pool["code"].journal
    assert not [name for name in request.headers if name.lower().startswith("x-router")]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", Api)
async def test_a_rejected_answer_goes_on_to_the_next_cleared_tier_and_to_no_other(
    world: World, api: Api, stream: bool
) -> None:
    raw = await ask(world, api, HARD, stream=stream)
    assert (await heard(raw, stream)).startswith("[demo-mid-70b]")
    (record,) = await world.records([raw.headers["x-request-id"]])
    assert record["attempts"] == 2
    only_cleared(world, "code", "mid")


@pytest.mark.parametrize("api", Api)
async def test_when_all_cleared_tiers_fail_the_client_gets_the_error(world: World, api: Api) -> None:
    for name in ("code", "mid"):
        world.pool[name].behaviour = Behaviour(status=503)
    answer = await post(world, api, HARD)
    assert answer.status == 503
    assert "error" in answer.json()
    only_cleared(world, "code", "mid")


@pytest.mark.parametrize("api", Api)
async def test_a_fallback_that_is_not_cleared_is_passed_over(world: World, api: Api) -> None:
    world.pool["code"].behaviour = Behaviour(status=503)
    answer = await post(world, api, "fallbacks for PROJECT-7")
    assert (answer.status, answer.headers["x-router-served-by"]) == (200, "mid")
    only_cleared(world, "code", "mid")
    world.forget()
    await post(world, api, "fallbacks for anybody")
    assert "large" in world.received()


async def test_a_model_that_is_not_cleared_gives_no_second_answer(world: World) -> None:
    answer = await post(world, Api.OPENAI_CHAT, "opinions about PROJECT-7")
    (record,) = await world.records([answer.headers["x-request-id"]])
    (attempt,) = (row for row in world.rows("attempt") if row["request_id"] == record["request_id"])
    assert (attempt["second_model"], attempt["second_outcome"]) == ("large", "not_cleared")
    only_cleared(world, "code")
    world.forget()
    await post(world, Api.OPENAI_CHAT, "opinions about anything")
    assert "large" in world.received()


REFUSED = {
    "no candidate is cleared": ("implement quicksort in python for my passport", "", {}),
    "a pin to a model that is not": ("a passport", "", {"model": "code"}),
    "the labels of a rule and of the header together": (EASY, "pii", {}),
    "a label that no model has": ("hello", "unheard-of", {}),
    "a header with many labels": ("hello", ",".join(f"l{i}" for i in range(100)), {}),
}


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("why", REFUSED)
async def test_without_a_cleared_model_the_request_is_refused_in_the_apis_own_shape(
    world: World, api: Api, why: str
) -> None:
    text, labels, more = REFUSED[why]
    answer = await post(world, api, text, labels, **more)
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert "may" in error["message"]
    if api is not Api.ANTHROPIC_MESSAGES:
        assert error["code"] == "not_cleared"
    (record,) = await world.records([answer.headers["x-request-id"]])
    assert (record["error"], record["refused"]) == ("not_cleared", True)
    assert record["labels"]
    assert world.received() == {}


@pytest.mark.parametrize("api", Api)
async def test_in_doubt_the_default_for_labels_answers_and_not_the_apis(world: World, api: Api) -> None:
    answer = await post(world, api, ELSEWHERE)
    assert (answer.status, answer.headers["x-router-model"]) == (200, "mid")
    only_cleared(world, "mid")


async def test_the_trusted_header_labels_too(world: World) -> None:
    answer = await post(world, Api.OPENAI_CHAT, "implement quicksort in python, the hard way", "internal")
    assert answer.headers["x-router-served-by"] == "mid"
    only_cleared(world, "code", "mid")


# What a client may write to get its labelled request to a model that is not cleared.
ATTEMPTS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "another clearance": ({"x-router-clearance": "none"}, {}),
    "another cluster": ({"x-router-cluster": "model-large"}, {}),
    "another route": ({"x-router-route": "falls"}, {}),
    "checked": ({"x-router-checked": "1"}, {}),
    "an empty list of labels": ({"x-data-labels": ""}, {}),
    "a list of commas": ({"x-data-labels": ",,"}, {}),
    "metadata": ({}, {"metadata": {"labels": [], "clearance": "none"}}),
    "a pin": ({}, {"model": "large"}),
    "a pin in another case": ({}, {"model": "Large"}),
    "the provider's name of a model": ({}, {"model": "demo-large-400b"}),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_nothing_that_a_client_writes_gets_a_labelled_request_to_another_model(
    world: World, attempt: str
) -> None:
    headers, more = ATTEMPTS[attempt]
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    for text in (EASY, HARD, ELSEWHERE, "PROJECT-\u200b7 hard", "ＰＲＯＪＥＣＴ-7 hard"):
        answer = await world.post(chat(text, **more), **named)
        assert answer.status in (200, 400)
    assert world.received().keys() <= {"code", "mid"}


async def test_a_labelled_turn_of_before_still_counts(world: World) -> None:
    turns = [
        {"role": "user", "content": "We work on PROJECT-7."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "zzxq vlorp"},
    ]
    answer = await world.post({"model": "auto", "messages": turns})
    assert answer.headers["x-router-model"] == "mid"


async def test_the_report_proves_it_from_the_records(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = await ask(world, Api.OPENAI_CHAT, HARD)
    await world.records([raw.headers["x-request-id"]])
    segments = [str(path) for path in segment_paths(world.stack.records)]
    registry = tmp_path.joinpath("registry.yaml")
    written = yaml.safe_load(world.stack.registry.read_text())
    registry.write_text(yaml.safe_dump(written))
    assert main(["report", "--clearance", "--registry", str(world.stack.registry), *segments]) == 0
    assert "every model that is on record for them is cleared" in capsys.readouterr().out
    # By a registry that clears the model for less, the same records are a breach.
    written["models"]["mid"]["cleared_for"] = ["pii"]
    registry.write_text(yaml.safe_dump(written))
    assert main(["report", "--json", "--clearance", "--registry", str(registry), *segments]) == 1
    breaches = json.loads(capsys.readouterr().out)["breaches"]
    assert {breach["model"] for breach in breaches} == {"mid"}


async def test_without_a_sidecar_nothing_goes_on_and_afterwards_it_does(world: World) -> None:
    world.stack.sidecar.send_signal(signal.SIGSTOP)  # hung
    try:
        assert (await post(world, Api.OPENAI_CHAT, EASY)).status == 503
    finally:
        world.stack.sidecar.send_signal(signal.SIGCONT)
    await world.stack.stop_sidecar(signal.SIGKILL)
    for api in Api:
        answer = await post(world, api, EASY)
        assert (answer.status, "error" in answer.json()) == (503, True)
    assert world.received() == {}
    await world.stack.start_sidecar()
    status = 0
    while status != 200:
        status = (await post(world, Api.OPENAI_CHAT, EASY)).status
    assert world.received().keys() <= {"code", "mid"}

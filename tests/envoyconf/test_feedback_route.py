"""Feedback through Envoy is answered by the sidecar or by nobody, and never reaches a model."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from extproc.envoyconf.direct_responses import FEEDBACK_PATH
from extproc.registry.feedback_token import FeedbackToken
from extproc.registry.model_settings import Auth
from extproc.registry.schema import FeedbackSettings
from extproc.telemetry.feedback_receiver import MAX_BYTES, FeedbackReceiver
from extproc.telemetry.rows import EvaluationRow
from extproc.wire.ext_proc_service import ExternalProcessor, FeedbackConversation
from tests.envoyconf.conftest import CHAT, Answer, World, launcher

SECTION = FeedbackSettings(token=Auth(env="FEEDBACK_TOKEN"))
GOOD = {"content-type": "application/json", "authorization": "Bearer t0ken"}
OPINION = b'{"request_id": "r1", "score": 1}'


class Heard:
    """What the sidecar kept and counted."""

    def __init__(self) -> None:
        self.rows: list[EvaluationRow] = []
        self.counts: list[str] = []
        self.keeps = True

    def keep(self, row: EvaluationRow) -> bool:
        self.rows.append(row)
        return self.keeps


def processor(world: World, heard: Heard) -> ExternalProcessor:
    token = FeedbackToken({"FEEDBACK_TOKEN": "t0ken"})
    token.use(SECTION, Path())
    receiver, failures = (
        FeedbackReceiver(token.admit, [heard.keep], heard.counts.append),
        world.sidecar.failures,
    )
    return ExternalProcessor(
        world.sidecar.decide_conversation(),
        feedback=FeedbackConversation(receiver, failures.append),
        count_failure=failures.append,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Heard]]:
    async with launcher(tmp_path_factory.mktemp("feedback")) as launch:
        world, heard = await launch(running=False, feedback=SECTION), Heard()
        await world.sidecar.start(processor(world, heard).handler())
        await world.sidecar_used()
        yield world, heard


@pytest.fixture
def world(shared: tuple[World, Heard]) -> World:
    shared[0].forget()
    return shared[0]


@pytest.fixture
def heard(shared: tuple[World, Heard]) -> Heard:
    heard = shared[1]
    heard.rows.clear()
    heard.counts.clear()
    heard.keeps = True
    return heard


pytestmark = pytest.mark.asyncio(loop_scope="module")


def told(answer: Answer, status: int) -> str:
    """The message of an error that is this one, in JSON."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"]["message"])


def nobody_asked(world: World) -> bool:
    """Neither a model nor who gets all else."""
    return not [request for provider in world.providers.values() for request in provider.received]


async def give(world: World, body: bytes | None = OPINION, headers: Mapping[str, str] = GOOD) -> Answer:
    return await world.ask(body, path=FEEDBACK_PATH, headers=headers)


async def test_an_opinion_is_accepted_and_kept(world: World, heard: Heard) -> None:
    answer = await give(world)
    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"id": heard.rows[0].evaluation_id, "accepted": True}
    assert [(row.request_id, row.score) for row in heard.rows] == [("r1", 1.0)]
    assert heard.counts == ["accepted"]
    assert nobody_asked(world)


async def test_the_same_opinion_twice_has_the_same_id(world: World, heard: Heard) -> None:
    first, again, other = [
        await give(world, body) for body in (OPINION, OPINION, OPINION.replace(b"1}", b"0}"))
    ]
    assert first.json() == again.json()
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer t0ken2", "bearer  T0ken", "Basic t0ken", "t0ken", "Bearer é"]
)
async def test_without_the_token_it_is_401_and_nothing_is_read(
    world: World, heard: Heard, authorization: str
) -> None:
    given = {**GOOD, "authorization": authorization} if authorization else {"content-type": "text/plain"}
    answer = await give(world, b"whatever", given)
    assert "expected authorization: Bearer TOKEN" in told(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (heard.rows, heard.counts) == ([], ["unauthorized"])
    assert nobody_asked(world)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"score": 1}', "add `request_id` or `trace_id`"),
        (b'{"request_id": "r", "score": 2}', "<= 1.0"),
        (b'{"request_id": "r", "label": "meh"}', "add `score` (0-1) or `label` (one of good"),
        (b'{"request_id": "r", "score": 1, "prompt": "x"}', "unknown field `prompt`"),
        (b'{"request_id": "\xff", "score": 1}', "UTF-8"),
        (b'{"request_id": "r", "explanation": "%s"}' % (b"x" * 4097), "length <= 4096"),
        (b"[" * 60_000, "Expected `object`"),
    ],
)
async def test_what_is_no_opinion_is_400_and_says_what_was_expected(
    world: World, heard: Heard, body: bytes | None, expected: str
) -> None:
    assert expected.lower() in told(await give(world, body), 400).lower()
    assert (heard.rows, heard.counts) == ([], ["bad_request"])
    assert nobody_asked(world)


@pytest.mark.parametrize(
    ("size", "counts"), [(MAX_BYTES + 1, ["too_large"]), (2_000_000, [])], ids=["by the sidecar", "by Envoy"]
)
async def test_more_than_an_opinion_can_be_is_413(
    world: World, heard: Heard, size: int, counts: list[str]
) -> None:
    assert "too large" in told(await give(world, b" " * size), 413)
    assert (heard.rows, heard.counts) == ([], counts)
    assert nobody_asked(world)


async def test_an_opinion_that_is_not_kept_is_503(world: World, heard: Heard) -> None:
    heard.keeps = False
    assert "send it again later" in told(await give(world), 503)
    assert heard.counts == ["unavailable"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_any_other_method_is_405(world: World, heard: Heard, method: str) -> None:
    answer = await world.ask(None, path=FEEDBACK_PATH, method=method, headers=GOOD)
    assert "POST" in told(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert heard.counts == []
    assert nobody_asked(world)


@pytest.mark.parametrize(
    "path",
    [f"{FEEDBACK_PATH}/", f"{FEEDBACK_PATH}s", "/v1/router", "/v1/router/", "/v1//router/%66eedback/x"],
)
async def test_beside_the_path_there_is_nothing_and_nobody_sees_the_token(
    world: World, heard: Heard, path: str
) -> None:
    told(await world.ask(OPINION, path=path, headers=GOOD), 404)
    assert nobody_asked(world)


@pytest.mark.parametrize(
    "path", [f"{FEEDBACK_PATH}?x=1", "/v1//router/%66eedback", "/v1/x/../router/feedback"]
)
async def test_other_spellings_of_the_path_are_the_path(world: World, heard: Heard, path: str) -> None:
    assert (await world.ask(OPINION, path=path, headers=GOOD)).status == 202


async def test_it_leaves_no_record_of_an_exchange_and_no_decision(world: World, heard: Heard) -> None:
    answer = await give(world)
    assert not [name for name in answer.headers if name.startswith("x-router-")]
    asked = await world.ask(path=CHAT)  # a request after it, whose entry is the first in the log
    assert (await world.logged()).request_id == asked.headers["x-request-id"]


async def test_a_decision_never_sees_the_credentials_that_feedback_does(world: World, heard: Heard) -> None:
    while not world.sidecar.asked.empty():
        world.sidecar.asked.get_nowait()
    await world.ask(path=CHAT, headers=GOOD)
    question = await world.sidecar.asked.get()
    assert "authorization" not in question.head.headers


async def test_while_the_sidecar_is_down_it_is_503_and_goes_nowhere(tmp_path: Path) -> None:
    async with launcher(tmp_path) as launch:
        world = await launch(running=False, feedback=SECTION)
        assert "may be sent again" in told(await give(world), 503)
        assert told(await give(world, b" " * 2_000_000), 503)
        assert nobody_asked(world)


async def test_a_sidecar_that_has_no_desk_or_a_broken_one_is_503(tmp_path: Path) -> None:
    def broken(_: object) -> bool:
        raise RuntimeError

    async with launcher(tmp_path) as launch:
        world = await launch(feedback=SECTION)  # its processor has no desk
        assert told(await give(world), 503)
        await world.sidecar.stop()
        heard = Heard()
        heard.keep = broken  # type: ignore[method-assign,assignment]
        world.sidecar._server = None
        await world.sidecar.start(processor(world, heard).handler())
        await world.sidecar_used()
        assert told(await give(world), 503)
        assert world.sidecar.failures == ["feedback"]
        assert nobody_asked(world)


@pytest.mark.parametrize("path", [FEEDBACK_PATH, "/v1/router/other"])
async def test_a_registry_without_feedback_has_nothing_there(tmp_path: Path, path: str) -> None:
    async with launcher(tmp_path) as launch:
        world = await launch()
        assert "takes no feedback" in told(await world.ask(OPINION, path=path, headers=GOOD), 404)
        assert nobody_asked(world)

"""The example registries are good, make a configuration that Envoy accepts, and do what they say.

Here their models are fakes on loopback. Hosted providers keep their names: only where these are, and
who vouches for them, is the test's.
"""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
import trustme
import yaml
from aiohttp import web
from msgspec.structs import replace

from extproc.cli import main
from extproc.demo.demo_stack import Stack, running_stack
from extproc.demo.fake_answers import Ask, reply
from extproc.demo.model_pool import Behaviour, FakeModel, Pool
from extproc.envoyconf import envoy_process
from extproc.registry.registry_loading import load
from tests.envoyconf.conftest import Provider
from tests.envoyconf.serving import Front, fronts, write_authority

CONFIG = Path(__file__).parents[2] / "config"
HELLO: Any = [{"role": "user", "content": "Hi, how are you?"}]
HARD: Any = [{"role": "user", "content": "Refactor this class to use dependency injection"}]
DOUBTFUL = "Perhaps, maybe, probably"
OPENAI_KEY, ANTHROPIC_KEY = "sk-openai-of-the-company", "sk-ant-of-the-company"


@pytest.fixture(autouse=True, scope="module")
def keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_API_KEY", OPENAI_KEY)
        environment.setenv("ANTHROPIC_API_KEY", ANTHROPIC_KEY)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, and beside them the gate that one of them has its operator fit first."""
    made = tmp_path_factory.mktemp("examples")
    for path in CONFIG.glob("*.yaml"):
        shutil.copy(path, made)
    fit_gate(made)
    return made


def fit_gate(folder: Path) -> None:
    """As config/cascade.yaml says, on answers of the fake: those that repeat doubts are bad."""
    models = load(CONFIG / "cascade.yaml", untrained=True).registry.models
    data, rows, random = folder / "answers.jsonl", [], Random(0)
    for number in range(150):
        words = random.sample(range(2, 12), k=number % 7 + 1)
        about = " ".join("".join(random.choices(ascii_lowercase, k=letters)) for letters in words)
        wrong = number % 3 == 0
        prompt = f"{DOUBTFUL} {about}" if wrong else about
        answers = {name: spoken(model.name, prompt) for name, model in models.items()}
        rows.append({"prompt": prompt, "answers": answers, "scores": {"small": 1.0 - wrong, "large": 1.0}})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--registry", str(CONFIG / "cascade.yaml"), "--data", str(data), "--out", str(folder / "gate")]
    assert main(["gate", "fit", *told, "--small", "small", "--large", "large", "--quality", "0.99"]) == 0


def spoken(model: str, question: str) -> str:
    return reply(Ask(model=model, question=question, prompt_tokens=1)).text


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG.glob("*.yaml")))
def test_every_example_is_good(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(folder / f"{name}.yaml")]) == 0
    assert "good" in capsys.readouterr().out


def test_the_cascade_asks_for_its_gate_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cascade.yaml"
    shutil.copy(CONFIG / "cascade.yaml", path)
    assert main(["validate", str(path)]) == 1
    told = capsys.readouterr().err
    assert f"{path}:" in told
    assert f"`extproc gate fit --registry {path} --data ANSWERS" in told
    assert f"--out {tmp_path / 'gate'}` writes" in told


@pytest.mark.parametrize("name", ["vllm", "hosted", "cascade"])
def test_envoy_accepts_what_an_example_generates(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "envoy.yaml"
    assert main(["envoy-config", "--registry", str(folder / f"{name}.yaml"), "--output", str(config)]) == 0
    assert capsys.readouterr().err == ""
    assert OPENAI_KEY not in config.read_text()
    envoy_process.validate(envoy_process.find(), config)


class Company:
    """An example behind a real Envoy and sidecar, and the official clients."""

    def __init__(self, stack: Stack, pool: Pool, rest: Provider) -> None:
        self.stack = stack
        self.pool = pool
        self.rest = rest
        self.openai = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="clients-own", max_retries=0)
        self.anthropic = anthropic.AsyncAnthropic(base_url=stack.url, api_key="clients-own", max_retries=0)

    def asked(self) -> str:
        """The public name of the one model that got the one request; the journals are emptied."""
        ((name, request),) = [(name, received) for name, m in self.pool.items() for received in m.journal]
        assert "clients-own" not in str(request.headers)
        self.forget()
        return name

    def forget(self) -> None:
        for model in self.pool.values():
            model.journal.clear()
        self.rest.received.clear()


@asynccontextmanager
async def company(
    folder: Path, document: dict[str, Any], pool: Pool, rest: Provider
) -> AsyncIterator[Company]:
    registry = folder / "registry.yaml"
    # A sidecar that is late on a busy machine is waited for all the same.
    registry.write_text(yaml.safe_dump(document | {"decision_ms": 3000}, sort_keys=False))
    async with running_stack(registry, folder / "run") as stack:
        world = Company(stack, pool, rest)
        async with world.openai, world.anthropic:
            yield world


async def embed(_: web.Request) -> web.StreamResponse:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
    return web.json_response({"object": "list", "data": [vector], "model": "e", "usage": {}})


def example(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return document


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Company]:
    folder, authority, document = tmp_path_factory.mktemp("hosted"), trustme.CA(), example("hosted")
    ca_file = write_authority(folder, authority)
    models = load(CONFIG / "hosted.yaml").registry.models
    key_of = {"openai": OPENAI_KEY, "anthropic": ANTHROPIC_KEY}
    fakes = {
        name: FakeModel(model.name, key=key_of[model.provider], apis=model.speaks)
        for name, model in models.items()
    }
    async with AsyncExitStack() as running:
        pool = await running.enter_async_context(Pool(fakes))
        rest = await running.enter_async_context(Provider("rest").running())
        rest.handler = embed
        plain = {**{name: fake.port for name, fake in fakes.items()}, "rest": rest.port}
        proven = {
            name: Front(port, authority.issue_cert(host_of(document, name))) for name, port in plain.items()
        }
        ports = await running.enter_async_context(fronts(folder, proven))
        for name, port in ports.items():
            section = section_of(document, name)
            section["endpoints"] = [{"address": f"127.0.0.1:{port}"}]
            section["tls"] = {"ca_file": ca_file}
        yield await running.enter_async_context(company(folder, document, pool, rest))


def section_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    section: dict[str, Any] = document["passthrough"] if name == "rest" else document["models"][name]
    return section


def host_of(document: dict[str, Any], name: str) -> str:
    return str(section_of(document, name)["base_url"].removeprefix("https://"))


@pytest.mark.asyncio(loop_scope="module")
class TestHosted:
    """config/hosted.yaml, its providers behind TLS."""

    async def test_openais_client_gets_chats_and_responses_also_as_streams(self, hosted: Company) -> None:
        client = hosted.openai
        chat = await client.chat.completions.create(model="auto", messages=HELLO)
        assert chat.choices[0].message.content
        assert hosted.asked() == "gpt-small"
        stream = await client.chat.completions.create(model="auto", messages=HARD, stream=True)
        text = "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
        assert text
        assert hosted.asked() == "gpt"
        response = await client.responses.create(model="auto", input=HARD)
        assert response.output_text
        assert hosted.asked() == "gpt"
        events = [e async for e in await client.responses.create(model="gpt", input="Hi", stream=True)]
        assert events[-1].type == "response.completed"
        assert hosted.asked() == "gpt"

    async def test_anthropics_client_gets_messages_also_as_streams(self, hosted: Company) -> None:
        client = hosted.anthropic
        message = await client.messages.create(model="auto", messages=HELLO, max_tokens=64)
        assert message.content[0].type == "text"
        assert hosted.asked() == "claude-small"
        async with client.messages.stream(model="auto", messages=HARD, max_tokens=64) as stream:
            assert await stream.get_final_text()
        assert hosted.asked() == "claude"

    async def test_providers_are_spoken_to_by_their_own_names(self, hosted: Company) -> None:
        await hosted.openai.chat.completions.create(model="gpt", messages=HELLO)
        await hosted.anthropic.messages.create(model="claude", messages=HELLO, max_tokens=64)
        for name, host in (("gpt", "api.openai.com"), ("claude", "api.anthropic.com")):
            (request,) = hosted.pool[name].journal
            headers = request.headers
            assert (headers["host"], headers["x-front-sni"], headers["x-front-protocol"]) == (
                host,
                host,
                "HTTP/2",
            )
        hosted.forget()

    async def test_embeddings_pass_with_the_companys_key(self, hosted: Company) -> None:
        made = await hosted.openai.embeddings.create(model="e", input="hi", encoding_format="float")
        assert made.data[0].embedding == [0.5, 0.25]
        assert hosted.rest.received[0].headers["authorization"] == f"Bearer {OPENAI_KEY}"
        hosted.forget()

    async def test_each_client_lists_what_it_may_pin(self, hosted: Company) -> None:
        assert [m.id async for m in hosted.openai.models.list()] == ["auto", "gpt-small", "gpt"]
        assert [m.id async for m in hosted.anthropic.models.list()] == ["auto", "claude-small", "claude"]

    async def test_no_key_is_in_any_file_that_was_written(self, hosted: Company) -> None:
        written = [path for path in hosted.stack.run_dir.rglob("*") if path.is_file()]
        assert hosted.stack.envoy_log in written
        for path in written:
            content = path.read_bytes()
            assert OPENAI_KEY.encode() not in content
            assert ANTHROPIC_KEY.encode() not in content

    async def test_without_the_sidecar_each_api_has_its_default(self, hosted: Company) -> None:
        await hosted.stack.stop_sidecar()
        try:
            await hosted.openai.chat.completions.create(model="auto", messages=HARD)
            assert hosted.asked() == "gpt-small"
            await hosted.openai.responses.create(model="auto", input="Hi")
            assert hosted.asked() == "gpt-small"
            await hosted.anthropic.messages.create(model="auto", messages=HARD, max_tokens=64)
            assert hosted.asked() == "claude-small"
        finally:
            await hosted.stack.start_sidecar()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Company]:
    folder, document = tmp_path_factory.mktemp("vllm"), example("vllm")
    models = load(CONFIG / "vllm.yaml").registry.models
    replicas = [f"small-{number}" for number in range(len(models["small"].endpoints))]
    fakes = {name: FakeModel(models["small"].name, apis=models["small"].speaks) for name in replicas}
    fakes["large"] = FakeModel(models["large"].name, apis=models["large"].speaks)
    async with AsyncExitStack() as running:
        pool = await running.enter_async_context(Pool(fakes))
        rest = await running.enter_async_context(Provider("rest").running())
        rest.handler = embed
        for endpoint, name in zip(document["models"]["small"]["endpoints"], replicas, strict=True):
            endpoint["address"] = f"127.0.0.1:{fakes[name].port}"
        # So long that no machine is too slow to see it.
        document["models"]["small"]["outlier_ejection"]["for_s"] = 300
        document["models"]["large"]["base_url"] = f"http://localhost:{fakes['large'].port}"
        document["passthrough"]["base_url"] = f"http://localhost:{rest.port}"
        yield await running.enter_async_context(company(folder, document, pool, rest))


@pytest.mark.asyncio(loop_scope="module")
class TestVllm:
    """config/vllm.yaml, every server of it a fake."""

    async def test_the_pool_shares_the_work(self, vllm: Company) -> None:
        for _ in range(24):
            await vllm.openai.chat.completions.create(model="small", messages=HELLO)
        asked = {name: len(fake.journal) for name, fake in vllm.pool.items()}
        vllm.forget()
        assert asked["large"] == 0
        assert sum(asked.values()) == 24
        assert asked["small-0"] > asked["small-1"] > 0 < asked["small-2"] < asked["small-0"]

    async def test_both_clients_are_served_also_with_streams(self, vllm: Company) -> None:
        stream = await vllm.openai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        assert [part async for part in stream]
        assert vllm.asked().startswith("small")
        completion = await vllm.openai.completions.create(model="large", prompt="Once upon a time")
        assert completion.choices[0].text
        assert vllm.asked() == "large"
        async with vllm.anthropic.messages.stream(model="auto", messages=HELLO, max_tokens=64) as told:
            assert await told.get_final_text()
        assert vllm.asked() == "large"

    async def test_a_server_that_fails_is_left_out_and_the_other_model_answers_meanwhile(
        self, vllm: Company
    ) -> None:
        failing = vllm.pool["small-1"]
        failing.behaviour = replace(failing.behaviour, status=503)
        try:
            for _ in range(40):
                await vllm.openai.chat.completions.create(model="auto", messages=HELLO)
            assert len(failing.journal) == 3
            assert 0 < len(vllm.pool["large"].journal) <= 3
        finally:
            failing.behaviour = replace(failing.behaviour, status=200)
            vllm.forget()

    async def test_embeddings_go_to_their_own_servers(self, vllm: Company) -> None:
        made = await vllm.openai.embeddings.create(model="e", input="hi", encoding_format="float")
        assert made.data[0].embedding == [0.5, 0.25]
        assert "authorization" not in vllm.rest.received[-1].headers
        vllm.forget()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cascade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Company]:
    folder, document = tmp_path_factory.mktemp("cascade"), example("cascade")
    fit_gate(folder)
    models = load(CONFIG / "cascade.yaml", untrained=True).registry.models
    fakes = {name: FakeModel(model.name, apis=model.speaks) for name, model in models.items()}
    async with AsyncExitStack() as running:
        pool = await running.enter_async_context(Pool(fakes))
        for name, fake in fakes.items():
            document["models"][name]["base_url"] = f"http://127.0.0.1:{fake.port}"
        yield await running.enter_async_context(company(folder, document, pool, Provider("rest")))


@pytest.mark.asyncio(loop_scope="module")
class TestCascade:
    """config/cascade.yaml, both of its models fakes that answer in prose."""

    async def test_what_the_small_model_answers_well_is_its_own(self, cascade: Company) -> None:
        chat = await cascade.openai.chat.completions.create(model="auto", messages=HARD)
        assert chat.model == "Qwen/Qwen3-8B"
        assert cascade.asked() == "small"
        events = [
            e async for e in await cascade.openai.responses.create(model="auto", input="Hi", stream=True)
        ]
        assert events[-1].type == "response.completed"
        assert cascade.asked() == "small"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_is_probably_not_good_the_large_one_answers(
        self, cascade: Company, stream: bool
    ) -> None:
        async def served(text: str) -> list[int]:
            asked: Any = [{"role": "user", "content": text}]
            got: Any = await cascade.openai.chat.completions.create(
                model="auto", messages=asked, stream=stream
            )
            assert not stream or [part async for part in got]
            numbers = [len(fake.journal) for fake in cascade.pool.values()]
            cascade.forget()
            return numbers

        assert await served(f"{DOUBTFUL} a class") == [1, 1]
        assert await served("Refactor all of a class") == [1, 0]

    async def test_what_is_not_as_it_was_asked_for_the_large_one_answers(self, cascade: Company) -> None:
        wanted: Any = {"type": "json_object"}
        cascade.pool["small"].behaviour = Behaviour(in_prose=True)
        chat = await cascade.openai.chat.completions.create(
            model="auto", messages=HELLO, response_format=wanted
        )
        assert chat.model == "Qwen/Qwen3-235B-A22B"
        assert [len(fake.journal) for fake in cascade.pool.values()] == [1, 1]
        cascade.pool["small"].behaviour = Behaviour()
        cascade.forget()

    async def test_without_the_sidecar_the_large_one_answers(self, cascade: Company) -> None:
        await cascade.stack.stop_sidecar()
        try:
            await cascade.openai.chat.completions.create(model="auto", messages=HELLO)
            assert cascade.asked() == "large"
        finally:
            await cascade.stack.start_sidecar()

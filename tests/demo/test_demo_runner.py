import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from extproc.demo import loopback_ports
from extproc.demo.demo_runner import demo_models, main, serve
from extproc.demo.model_pool import Pool
from extproc.errors import OperatorError
from extproc.registry.model_settings import Auth, Model
from extproc.registry.schema import Registry


def registry(**models: Model) -> Registry:
    return Registry(models=models, default=next(iter(models)))


def test_a_model_on_this_machine_is_played_under_its_upstream_name(tmp_path: Path) -> None:
    models = demo_models(registry(small=Model(base_url="http://127.0.0.1:10011", name="small-8b")), tmp_path)
    assert (models["small"].name, models["small"].key) == ("small-8b", "")


def test_a_model_without_an_upstream_name_is_played_under_its_public_one(tmp_path: Path) -> None:
    assert (
        demo_models(registry(small=Model(base_url="http://localhost:8000")), tmp_path)["small"].name
        == "small"
    )


def test_a_model_elsewhere_is_real_and_not_played(tmp_path: Path) -> None:
    there = registry(hosted=Model(base_url="http://models.example:80"))
    assert demo_models(there, tmp_path) == {}


def test_a_missing_key_file_is_made_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    keyed = registry(small=Model(base_url="http://127.0.0.1:10011", auth=Auth(file="keys/small")))
    first = demo_models(keyed, tmp_path)["small"].key
    assert first
    assert (tmp_path / "keys/small").read_text() == first
    assert (tmp_path / "keys/small").stat().st_mode & 0o777 == 0o600
    assert demo_models(keyed, tmp_path)["small"].key == first


async def test_a_missing_token_for_feedback_is_made_too(tmp_path: Path) -> None:
    path, _ = one_model_registry(tmp_path)
    path.write_text(f"{path.read_text()}feedback: {{token: {{file: keys/feedback}}}}\n")
    chosen = dict(
        zip(("PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT"), map(str, loopback_ports.free(3)), strict=True)
    )
    port = int(chosen["PORT"])
    with (
        socket.create_server((loopback_ports.HOST, port)),
        pytest.raises(OperatorError, match=f"port {port} "),
    ):
        await serve(path, tmp_path / "run", chosen)
    assert (tmp_path / "keys/feedback").read_text().startswith("demo-")
    assert (tmp_path / "keys/feedback").stat().st_mode & 0o777 == 0o600


def test_two_models_do_not_share_a_made_key(tmp_path: Path) -> None:
    keyed = registry(
        a=Model(base_url="http://127.0.0.1:10011", auth=Auth(file="a")),
        b=Model(base_url="http://127.0.0.1:10012", auth=Auth(file="b")),
    )
    models = demo_models(keyed, tmp_path)
    assert models["a"].key != models["b"].key


def test_an_empty_key_file_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    keyed = registry(small=Model(base_url="http://127.0.0.1:10011", auth=Auth(file="key")))
    with pytest.raises(OperatorError, match=f"^{tmp_path / 'key'} is empty"):
        demo_models(keyed, tmp_path)


async def test_a_played_model_remembers_no_request(tmp_path: Path) -> None:
    [port] = loopback_ports.free(1)
    models = demo_models(registry(small=Model(base_url=f"http://127.0.0.1:{port}")), tmp_path)
    async with Pool(models) as pool, aiohttp.ClientSession() as session:
        async with session.get(f"{pool['small'].url}/v1/models") as answer:
            assert answer.status == 200
        assert not pool["small"].journal


def one_model_registry(tmp_path: Path, port: int | None = None) -> tuple[Path, int]:
    port = port or loopback_ports.free(1)[0]
    path = tmp_path / "registry.yaml"
    path.write_text(f"models:\n  small: {{base_url: 'http://127.0.0.1:{port}'}}\ndefault: small\n")
    return path, port


@pytest.mark.parametrize("variable", ["PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT"])
def test_a_taken_port_is_one_message_with_the_variable_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    path, _ = one_model_registry(tmp_path)
    variables = ("PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT")
    for name, port in zip(variables, loopback_ports.free(3), strict=True):
        monkeypatch.setenv(name, str(port))
    with socket.create_server((loopback_ports.HOST, 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setenv(variable, str(taken))
        assert main(["--registry", str(path), "--run-dir", str(tmp_path / "run")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"port {taken} for " in err
    assert err.endswith(f"is taken: set {variable} to another\n")


def test_two_models_at_one_address_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, port = one_model_registry(tmp_path)
    path.write_text(
        path.read_text().replace("default", f"  big: {{base_url: 'http://127.0.0.1:{port}'}}\ndefault")
    )
    for name, free in zip(("PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT"), loopback_ports.free(3), strict=True):
        monkeypatch.setenv(name, str(free))
    assert main(["--registry", str(path), "--run-dir", str(tmp_path / "run")]) == 1
    message = f"the models small and big are both at 127.0.0.1:{port}: change one's base_url"
    assert capsys.readouterr().err == f"extproc.demo: {message}\n"


def test_a_registry_that_is_not_there_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--registry", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err


Alive = Callable[[int], bool]


class Run:
    """`python -m extproc.demo` in a process of its own, up to its curl example."""

    def __init__(self, process: asyncio.subprocess.Process, registry: Path, lines: list[str]) -> None:
        self.process = process
        self.registry = registry
        self.lines = lines

    async def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    def pid(self, name: str) -> int:
        """The process id that the progress lines give for ``name``."""
        [pid] = re.findall(rf"^{name} +pid (\d+)", "\n".join(self.lines), re.MULTILINE)
        return int(pid)

    async def ended(self) -> tuple[int, str, str]:
        """Its exit status, and the rest of what it wrote to stdout and stderr."""
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A run of its own, for tests that end it."""
    async with running(tmp_path) as run:
        yield run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """For tests that leave it running. Another process has its model's port, as another checkout's demo would."""
    with socket.create_server((loopback_ports.HOST, 0)) as taken:
        async with running(tmp_path_factory.mktemp("shared"), taken.getsockname()[1]) as run:
            yield run


@asynccontextmanager
async def running(tmp_path: Path, model_port: int | None = None) -> AsyncIterator[Run]:
    path, _ = one_model_registry(tmp_path, model_port)
    chosen = dict(
        zip(("PORT", "ENVOY_ADMIN_PORT", "ADMIN_PORT"), map(str, loopback_ports.free(3)), strict=True)
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "extproc.demo", "--registry", str(path), "--run-dir", str(tmp_path / "run")),
        env=os.environ | chosen,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(90):
        while line := (await process.stdout.readline()).decode().rstrip("\n"):
            lines.append(line)
            if lines[-1].endswith("}'"):
                break
    yield Run(process, path, lines)
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def nothing_left(run: Run, alive: Alive) -> bool:
    """Waits for the run's children to be gone."""
    async with asyncio.timeout(60):
        while alive(run.pid("sidecar")) or alive(run.pid("envoy")):
            await asyncio.sleep(0.01)
    return True


@pytest.mark.asyncio(loop_scope="module")
async def test_it_says_ready_once_and_its_example_works_when_pasted(shared_run: Run) -> None:
    run = shared_run
    [ready] = [line for line in run.lines if line.startswith("ready ")]
    url = ready.removeprefix("ready ")
    position = run.lines.index(ready) + 1
    curl, include, address, *rest = shlex.split("\n".join(run.lines[position:]))
    assert (curl, include, address) == ("curl", "-i", f"{url}/v1/chat/completions")
    headers = dict([rest[rest.index("-H") + 1].split(": ")])
    data = rest[rest.index("-d") + 1]
    assert json.loads(data)["model"] == "auto"
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, data=data, headers=headers) as answer,
    ):
        assert answer.status == 200
        assert (await answer.json())["choices"][0]["message"]["content"].startswith("[small] You asked: ")


@pytest.mark.asyncio(loop_scope="module")
async def test_every_edit_of_the_registry_is_reported_on_one_line(shared_run: Run) -> None:
    run = shared_run
    good = run.registry.read_text()
    run.registry.write_text(f"{good}decision_ms: 201\n")
    accepted = await run.line()
    assert re.fullmatch(r"registry +accepted: version [0-9a-f]{12}", accepted)
    version = accepted.rpartition(" ")[2]

    run.registry.write_text(f"{good}decision_sm: 201\n")
    line = len(good.splitlines()) + 1
    rejected = await run.line()
    assert re.fullmatch(
        rf"registry +rejected: {re.escape(str(run.registry))}:{line}: unknown key `decision_sm` .*; "
        rf"version {version} still serves",
        rejected,
    )

    run.registry.write_text(f"{good}default: nobody\n")  # a second mistake is another line
    assert f"rejected: {run.registry}:{line}: the key 'default' is already given" in await run.line()

    run.registry.write_text(f"{good}decision_ms: 201\n")
    assert await run.line() == accepted
    run.registry.write_text(f"{good}decision_ms: 201\nencoder: {{precision: fp32}}\n")
    assert (await run.line()).endswith("; restart to apply encoder")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything_and_is_no_error(
    run: Run, alive: Alive, number: signal.Signals
) -> None:
    run.process.send_signal(number)
    assert await run.ended() == (0, "stopped\n", "")
    assert await nothing_left(run, alive)


@pytest.mark.parametrize("name", ["envoy", "sidecar"])
async def test_a_process_that_dies_is_named_and_stops_the_rest(run: Run, alive: Alive, name: str) -> None:
    pid = run.pid(name)
    os.kill(pid, signal.SIGKILL)
    status, _, err = await run.ended()
    assert status == 1
    assert re.match(
        rf"extproc\.demo: {name} \(pid {pid}, log .*\) was ended by SIGKILL; its last output was:\n", err
    )
    assert await nothing_left(run, alive)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_nothing_survives_the_kill_of_the_runner(run: Run, alive: Alive) -> None:
    run.process.kill()
    assert await nothing_left(run, alive)

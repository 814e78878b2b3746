"""Supervision, tried on real processes: small Python programs that misbehave on purpose."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from extproc.demo import loopback_ports, tether
from extproc.demo.child_processes import Process
from extproc.errors import ProcessFailed

Start = Callable[..., Awaitable[Process]]
Alive = Callable[[int], bool]

SERVE = """
    import http.server, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()
            self.wfile.write(b"encoder: loading")
    print("serving", flush=True)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# The signal is blocked before "up" is printed: one that arrives before sigwait stays pending for it.
DRAINS = """
    import signal, sys
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("up", flush=True)
    signal.sigwait({signal.SIGTERM})
    print("drained", flush=True)
    sys.exit(7)
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(3600)
"""

DEAF_PARENT = """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    print(subprocess.Popen(command).pid, "deaf", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a Python program as the process ``child``; whatever is left at the end is killed."""
    started: list[Process] = []

    async def starter(program: str, *arguments: str, **environment: str) -> Process:
        command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        process = await Process.start("child", command, log=tmp_path / "child.log", environment=environment)
        started.append(process)
        return process

    yield starter
    for process in started:
        await process.stop(signal.SIGKILL)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


async def test_both_outputs_go_to_the_log_and_the_environment_is_extended(
    start: Start, tmp_path: Path
) -> None:
    process = await start(
        "import os, sys; print(os.environ['GREETING']); print(len(os.environ['PATH']) > 0, file=sys.stderr)",
        GREETING="hello",
    )
    assert await process.wait() == 0
    assert sorted((tmp_path / "child.log").read_text().split()) == ["True", "hello"]


async def test_a_child_that_dies_is_reported_with_its_status_log_and_last_lines(start: Start) -> None:
    process = await start(
        "import sys; [print('line', n, flush=True) for n in range(100)]; sys.exit('no encoder')"
    )
    await process.wait()
    text = str(process.failure())
    assert f"child (pid {process.pid}, log {process.log}) ended with status 1; its last output was:\n" in text
    assert text.endswith("line 98\nline 99\nno encoder")
    assert "line 50" not in text


async def test_a_child_ended_by_a_signal_is_reported_by_its_name(start: Start) -> None:
    process = await start("import time; time.sleep(3600)")
    assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert "was ended by SIGKILL; it had no output" in str(process.failure())


async def test_the_log_tail_is_this_childs_own(start: Start) -> None:
    await (await start("print('the first')")).wait()
    second = await start("print('the second')")
    await second.wait()
    assert second.log_tail() == "the second"
    assert second.log.read_text() == "the first\nthe second\n"


async def test_a_command_that_does_not_exist_ends_with_a_message(tmp_path: Path) -> None:
    process = await Process.start("envoy", ["/no/such/envoy"], log=tmp_path / "log")
    assert await process.wait() == 1
    assert process.log_tail() == "/no/such/envoy: No such file or directory"


async def test_ready_returns_once_the_url_answers_200(start: Start) -> None:
    [port] = loopback_ports.free(1)
    process = await start(SERVE, str(port))
    await process.ready(f"http://127.0.0.1:{port}/ready", timeout_s=30)
    assert process.returncode is None


async def test_a_child_that_stays_unready_is_reported_with_its_last_answer(start: Start) -> None:
    [port] = loopback_ports.free(1)
    process = await start(SERVE, str(port))
    await process.ready(f"http://127.0.0.1:{port}/ready", timeout_s=30)
    with pytest.raises(ProcessFailed, match=r"was not ready after 0\.1 s .* 503 encoder: loading") as error:
        await process.ready(f"http://127.0.0.1:{port}/loading", timeout_s=0.1)
    assert "serving" in str(error.value)


async def test_a_child_that_dies_before_it_is_ready_is_reported_at_once(start: Start) -> None:
    [port] = loopback_ports.free(1)
    process = await start("import sys; sys.exit('bad option')")
    with pytest.raises(ProcessFailed, match="ended with status 1; its last output was:\nbad option"):
        await process.ready(f"http://127.0.0.1:{port}/ready", timeout_s=60)


async def test_a_stranger_that_answers_for_a_dead_child_is_not_readiness(start: Start) -> None:
    [port] = loopback_ports.free(1)
    url = f"http://127.0.0.1:{port}/ready"
    await (await start(SERVE, str(port))).ready(url, timeout_s=30)
    late = await start(SERVE, str(port))
    await late.wait()
    with pytest.raises(ProcessFailed, match="Address already in use"):
        await late.ready(url, timeout_s=60)


async def test_stop_lets_the_child_end_by_itself(start: Start) -> None:
    process = await start(DRAINS)
    until(lambda: process.log_tail() == "up")
    assert await process.stop(grace_s=60) == 7
    assert process.log_tail() == "up\ndrained"


async def test_stop_kills_a_child_that_ignores_it(start: Start) -> None:
    process = await start(DEAF)
    until(lambda: process.log_tail() == "deaf")
    assert await process.stop(grace_s=0.05) == -signal.SIGKILL


async def test_stop_kills_what_a_deaf_child_started(start: Start, alive: Alive) -> None:
    process = await start(DEAF_PARENT)
    until(lambda: process.log_tail().endswith("deaf"))
    grandchild = int(process.log_tail().split()[0])
    assert alive(grandchild)
    await process.stop(grace_s=0.05)
    until(lambda: not alive(grandchild))


async def test_a_hanging_child_hears_stop(start: Start) -> None:
    process = await start(DRAINS)
    until(lambda: process.log_tail() == "up")
    process.send_signal(signal.SIGSTOP)
    assert await process.stop(grace_s=60) == 7


async def test_stopping_what_has_ended_changes_nothing(start: Start) -> None:
    process = await start("raise SystemExit(3)")
    await process.wait()
    assert await process.stop() == 3


async def test_a_terminals_interrupt_does_not_reach_the_child(start: Start) -> None:
    process = await start("import time; time.sleep(3600)")
    assert os.getpgid(process.pid) == process.pid != os.getpgrp()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_does_not_survive_the_kill_of_its_supervisor(tmp_path: Path, alive: Alive) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, pathlib, sys
        from extproc.demo.child_processes import Process

        async def main():
            command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(3600)"]
            process = await Process.start("child", command, log=pathlib.Path({str(tmp_path / "child.log")!r}))
            while process.log_tail() != "up":
                await asyncio.sleep(0.005)
            print(process.pid, flush=True)
            await process.wait()

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert alive(child)
        supervisor.kill()
    until(lambda: not alive(child))


def test_a_tethered_command_is_not_run_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    nobody = "1"  # init, not us: as if our supervisor had died and the child been handed over
    done = subprocess.run(
        [sys.executable, tether.__file__, nobody, "touch", str(mark)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "has ended" in done.stderr
    assert not mark.exists()

"""Every test has a time limit: one that hangs fails with its stack and does not hang the run."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HANGING = """
import asyncio, subprocess, sys

async def test_a_coroutine_that_waits_for_ever():
    await asyncio.Event().wait()

def test_a_child_that_never_ends():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            child.wait()
        finally:
            child.kill()

def test_native_code_that_no_signal_interrupts():
    import ctypes, signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.CDLL(None).pause()

def test_that_passes():
    pass
"""


def test_a_hanging_test_fails_with_its_stack_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    limits = ["timeout=0.5", "faulthandler_timeout=2", f"cache_dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "1", "-c", str(ROOT / "pyproject.toml")),
            *(part for limit in limits for part in ("-o", limit)),
            *("-p", "tests.conftest", "--rootdir", str(tmp_path), str(tmp_path / "test_hanging.py")),
        ],
        cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "3 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Failed: Timeout (>0.5s) from pytest-timeout.") >= 2
    assert "await asyncio.Event().wait()" in done.stdout
    assert "child.wait()" in done.stdout
    assert "in test_native_code_that_no_signal_interrupts" in done.stderr


@pytest.mark.parametrize("limit", ["timeout", "faulthandler_timeout"])
def test_the_limits_are_minutes_so_that_only_hangs_meet_them(limit: str) -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert 120 <= options[limit] <= 600
    assert options["faulthandler_exit_on_timeout"] is True

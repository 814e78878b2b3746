"""What tests of several packages need."""

import asyncio
import io
import os
from collections.abc import Generator

import hypothesis
import pytest

from extproc.embedding.encoder_files import EncoderFiles, locate
from extproc.errors import EncoderMissing

# The same examples in every run, however long each takes: a run is green or red by what changed.
# HYPOTHESIS_PROFILE=default looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def encoder_files() -> EncoderFiles:
    """The real encoder. Absent, the tests that need it fail: skipping would hide them in CI."""
    try:
        return locate()
    except EncoderMissing as missing:
        pytest.fail(f"{missing}, or `make setup`", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport]:
    """After a time-out, show where every asyncio task waits: the thread's stack shows the event loop only."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("asyncio tasks", _task_stacks()))
    return report


def _task_stacks() -> str:
    try:
        tasks = asyncio.all_tasks(asyncio.get_event_loop_policy().get_event_loop())
    except RuntimeError:  # the test was no coroutine
        return "none"
    text = io.StringIO()
    for task in tasks:
        task.print_stack(file=text)
    return text.getvalue()

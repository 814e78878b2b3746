import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from extproc.telemetry import logs


@pytest.fixture
def lines() -> Iterator["Lines"]:
    """The process's logging, configured; as it was when the test ends."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    root.handlers = []  # so that configure does not close pytest's own
    stream = io.StringIO()
    logs.configure("info", stream)
    yield Lines(stream)
    logging.captureWarnings(False)
    root.handlers, level, sys.excepthook, threading.excepthook = before
    root.setLevel(level)


class Lines:
    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def all(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def only(self) -> dict[str, object]:
        (line,) = self.all()
        return line


log = logging.getLogger("extproc.test")


def test_a_line_tells_when_how_grave_who_and_what(lines: Lines) -> None:
    log.warning("%s is slow", "disk", extra={"trace_id": "0af7", "lost": 3})
    line = lines.only()
    assert datetime.fromisoformat(str(line.pop("ts"))).tzinfo is not None
    assert line == {
        "level": "warning",
        "logger": "extproc.test",
        "message": "disk is slow",
        "trace_id": "0af7",
        "lost": 3,
    }


def test_an_exception_with_newlines_is_one_line(lines: Lines) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it\nbroke", stack_info=True)
    line = lines.only()
    assert line["message"] == "it\nbroke"
    assert str(line["exc"]).startswith("Traceback")
    assert str(line["exc"]).endswith("ValueError: first\nsecond")
    assert "log.exception" in str(line["stack"])


def test_extra_fields_do_not_replace_ours(lines: Lines) -> None:
    log.info("true", extra={"level": "false", "logger": "false", "ts": "false"})
    line = lines.only()
    assert (line["level"], line["logger"]) == ("info", "extproc.test")
    assert line["ts"] != "false"


endless: list[object] = []
endless.append(endless)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (OSError("gone"), "gone"),
        ("undecodable \udce9", "'undecodable \\udce9'"),
        (endless, "[[...]]"),
        (float("nan"), None),
    ],
)
def test_values_that_json_has_not_are_told_all_the_same(lines: Lines, value: object, told: object) -> None:
    log.info("odd", extra={"value": value, "other": 1})
    line = lines.only()
    assert line["value"] == told
    assert (line["message"], line["other"]) == ("odd", 1)


def test_what_is_below_the_level_is_not_told(lines: Lines) -> None:
    log.debug("whispered")
    assert lines.all() == []


def test_python_warnings_are_lines(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert lines.only()["logger"] == "py.warnings"


def test_an_uncaught_exception_is_a_line(lines: Lines) -> None:
    error = RuntimeError("lost")
    sys.excepthook(type(error), error, None)
    line = lines.only()
    assert line["level"] == "critical"
    assert line["exc"] == "RuntimeError: lost"


def test_an_interrupt_at_the_keyboard_is_no_line(lines: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    error = KeyboardInterrupt()
    sys.excepthook(type(error), error, None)
    assert lines.all() == []
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_an_uncaught_exception_in_a_thread_is_a_line(lines: Lines) -> None:
    def fail() -> None:
        raise RuntimeError("lost in a thread")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    line = lines.only()
    assert line["thread_name"] == "worker"
    assert str(line["exc"]).endswith("RuntimeError: lost in a thread")


async def test_an_uncaught_exception_in_the_event_loop_is_a_line_without_its_objects(lines: Lines) -> None:
    def fail(prompt: str) -> None:
        raise RuntimeError("lost in the loop")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.log_uncaught_in_loop)
    loop.call_soon(fail, "my secret prompt")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line = lines.only()
    assert line["level"] == "error"
    assert str(line["exc"]).endswith("RuntimeError: lost in the loop")
    assert "secret" not in json.dumps(line)


async def test_what_the_event_loop_complains_of_without_an_exception_is_a_line(lines: Lines) -> None:
    logs.log_uncaught_in_loop(asyncio.get_running_loop(), {"message": "a task was lost", "task": object()})
    assert lines.only()["message"] == "a task was lost"

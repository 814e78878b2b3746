"""Logs: one JSON object per line on standard error, through the standard library's logging.

No message or extra field carries the text of a prompt or an answer.
"""

import asyncio
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import msgspec

log = logging.getLogger(__name__)

# The fields of every LogRecord. All other fields come from ``extra``.
_STANDARD_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})

# msgspec raises these for text from undecodable bytes (of a file name) and for a value that contains itself.
_UNENCODABLE = (ValueError, RecursionError)


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object: ts, level, logger, message, extra fields, exc, stack."""

    def __init__(self) -> None:
        super().__init__()
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def format(self, record: logging.LogRecord) -> str:
        """One line: a traceback's newlines are escaped inside it."""
        entry: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = _STANDARD_FIELDS | entry.keys()
        entry |= {name: value for name, value in vars(record).items() if name not in known}
        if record.exc_info:
            entry["exc"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return self._line(entry)

    def _line(self, entry: dict[str, Any]) -> str:
        try:
            return self._encode(entry).decode()
        except _UNENCODABLE:
            return self._encode({name: self._encodable(value) for name, value in entry.items()}).decode()

    def _encodable(self, value: object) -> object:
        """The value if it can be JSON, else its ``ascii`` form, so that no line is lost."""
        try:
            self._encode(value)
        except _UNENCODABLE:
            return ascii(value)
        return value


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all logs of the process, warnings and uncaught exceptions included, to ``stream``.

    ``level`` is a name such as ``info``. ``stream`` is standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def log_uncaught_in_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler: ``loop.set_exception_handler(log_uncaught_in_loop)``.

    The default handler also prints the callback's arguments, which may contain data of clients.
    """
    error = context.get("exception")
    log.error("uncaught exception in the event loop" if error else context["message"], exc_info=error)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    log.critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread else ""
    log.critical("uncaught exception in a thread", exc_info=args.exc_value, extra={"thread_name": name})

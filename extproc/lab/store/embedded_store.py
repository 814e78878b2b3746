"""The store in this process: chDB, which is ClickHouse as a library.

A path belongs to one process at a time. Serving never opens it: it writes segments, and whoever
asks reads them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from extproc.errors import OperatorError
from extproc.lab.store.query_parameters import Parameters, as_parameters
from extproc.missing_extras import needed

try:
    from chdb.session import Session
except ImportError as missing:
    raise OperatorError(needed("the embedded store", missing, "eval")) from missing

# Integers of 64 bits are numbers to Python's JSON, and what is parsed must be what was printed.
_SETTINGS = (
    "SET precise_float_parsing = 1, output_format_json_quote_64bit_integers = 0, session_timezone = 'UTC'"
)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class EmbeddedStore:
    """See ``connection.Store``."""

    def __init__(self, path: Path | None) -> None:
        """A database at ``path``, made when absent, or one in memory that ends with ``close``."""
        try:
            self._session = Session(None if path is None else str(path))
            self._session.query(_SETTINGS)
        except RuntimeError as error:
            raise OperatorError(f"the store {path} cannot be opened: {_reason(error)}") from error

    def run(self, sql: str) -> None:
        """See ``Store``."""
        self._ask(sql, None)

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """See ``Store``."""
        return [_decode(line) for line in self._ask(sql, parameters).splitlines()]

    @contextmanager
    def staged(self, segment: Path) -> Iterator[str]:
        """See ``Store``: the file itself is read."""
        if set("*?{}") & set(str(segment.resolve())):
            raise OperatorError(f"{segment}: a * ? {{ or }} in a path is a pattern to chDB: rename it")
        yield f"file({quoted(str(segment.resolve()))}, 'LineAsString', 'line String')"

    def close(self) -> None:
        """See ``Store``."""
        self._session.close()

    def _ask(self, sql: str, parameters: Parameters | None) -> bytes:
        try:
            return bytes(self._session.query(sql, "JSONEachRow", params=as_parameters(parameters)).bytes())
        except RuntimeError as error:
            raise OperatorError(f"the store refused a query: {_reason(error)}") from error


def quoted(text: str) -> str:
    """A string literal of ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""The record store: ClickHouse's SQL, on chDB in this process or on a ClickHouse server.

The two differ in how a query gets there. Serving opens neither: it writes segments, which an import loads.
"""

import http.client
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlencode, urlsplit

import msgspec

from extproc.errors import OperatorError
from extproc.missing_extras import needed

PASSWORD_VARIABLE = "CLICKHOUSE_PASSWORD"  # noqa: S105 - a name, not a password

_TIMEOUT_S = 300.0
_HTTP_PORT, _HTTPS_PORT = 8123, 8443
# Integers of 64 bits are JSON numbers, and a number that is read equals the one that was written.
_SETTINGS = {
    "output_format_json_quote_64bit_integers": "0",
    "precise_float_parsing": "1",
    "session_timezone": "UTC",
}
_decode = msgspec.json.Decoder(dict[str, Any]).decode

Parameters = Mapping[str, str | int | float]


class Store(Protocol):
    """A database with ClickHouse's SQL. Each method raises ``OperatorError`` if the database refuses."""

    def run(self, sql: str) -> None:
        """Run a statement without a result."""
        ...

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """The rows of a query, by column name; ``{name:Type}`` in it stands for a parameter."""
        ...

    def staged(self, segment: Path) -> AbstractContextManager[str]:
        """A table expression for FROM that reads a segment's lines as one column ``line``."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def is_server(where: str | None) -> bool:
    """Whether ``where`` is the address of a server, whose tables may belong to somebody else."""
    return where is not None and where.startswith(("clickhouse://", "clickhouses://"))


@contextmanager
def open_store(where: str | None) -> Iterator[Store]:
    """The store at ``where``: a path (chDB), a clickhouse:// address, or None for one in memory.

    Raises:
        OperatorError: it cannot be opened; the message says what is missing.
    """
    store = _open(where)
    try:
        yield store
    finally:
        store.close()


def _open(where: str | None) -> Store:
    if where is not None and is_server(where):
        return ServerStore(where)
    if where is not None and "://" in where:
        raise OperatorError(
            f"--store: {where} is no store (expected a path, or clickhouse://HOST:PORT/DATABASE)"
        )
    return EmbeddedStore(None if where is None else Path(where))


class EmbeddedStore:
    """A store in this process: chDB, which is ClickHouse as a library. Only one process can open a path."""

    def __init__(self, path: Path | None) -> None:
        """A database at ``path``, created if absent, or one in memory that ends with ``close``."""
        try:
            from chdb.session import Session
        except ImportError as missing:
            raise OperatorError(needed("the embedded store", missing, "eval")) from missing
        settings = ", ".join(f"{name} = '{value}'" for name, value in _SETTINGS.items())
        try:
            self._session = Session(None if path is None else str(path))
            self._session.query(f"SET {settings}")
        except RuntimeError as error:
            raise OperatorError(f"the store {path} cannot be opened: {_reason(error)}") from error

    def run(self, sql: str) -> None:
        """See ``Store``."""
        self._query(sql, None)

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """See ``Store``."""
        return [_decode(line) for line in self._query(sql, parameters).splitlines()]

    @contextmanager
    def staged(self, segment: Path) -> Iterator[str]:
        """See ``Store``: the file itself is read."""
        if set("*?{}") & set(str(segment.resolve())):
            raise OperatorError(f"{segment}: a * ? {{ or }} in a path is a pattern to chDB: rename it")
        yield f"file({quoted(str(segment.resolve()))}, 'LineAsString', 'line String')"

    def close(self) -> None:
        """See ``Store``."""
        self._session.close()

    def _query(self, sql: str, parameters: Parameters | None) -> bytes:
        try:
            return bytes(self._session.query(sql, "JSONEachRow", params=_as_texts(parameters)).bytes())
        except RuntimeError as error:
            raise OperatorError(f"the store refused a query: {_reason(error)}") from error


class ServerStore:
    """A store on a ClickHouse server, over its HTTP interface.

    Tests use a stand-in that runs chDB. It is untested against a live server: the SQL is the same, but the
    server's limits and permissions may differ.
    """

    def __init__(self, address: str) -> None:
        """``clickhouse[s]://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]``; with s, over TLS.

        Without a password in the address, ``CLICKHOUSE_PASSWORD`` has it. Nothing is connected to yet.
        Raises ``OperatorError`` for an invalid address.
        """
        try:
            url = urlsplit(address)
            self._secure = url.scheme == "clickhouses"
            self._port = url.port or (_HTTPS_PORT if self._secure else _HTTP_PORT)
        except ValueError as error:
            raise OperatorError(f"--store: {address} is no address: {error}") from error
        if not url.hostname:
            raise OperatorError(f"--store: {address} names no host")
        self._host = url.hostname
        self._database = url.path.strip("/") or "default"
        self._headers = {
            "X-ClickHouse-User": unquote(url.username or "default"),
            "X-ClickHouse-Key": unquote(url.password or os.environ.get(PASSWORD_VARIABLE, "")),
        }

    def run(self, sql: str) -> None:
        """See ``Store``."""
        self._post({}, sql.encode())

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """See ``Store``."""
        given = {f"param_{name}": value for name, value in _as_texts(parameters).items()}
        return [_decode(line) for line in self._post(given, sql.encode()).splitlines()]

    @contextmanager
    def staged(self, segment: Path) -> Iterator[str]:
        """See ``Store``: the segment is sent into a table, which is dropped after use."""
        table = f"router_staged_{secrets.token_hex(8)}"
        self.run(f"CREATE TABLE {table} (line String) ENGINE = Memory")
        try:
            with segment.open("rb") as lines:
                self._post({"query": f"INSERT INTO {table} FORMAT LineAsString"}, lines)
            yield table
        finally:
            self.run(f"DROP TABLE {table}")

    def close(self) -> None:
        """See ``Store``: every query had its own connection."""

    def _post(self, parameters: Mapping[str, str], body: bytes | IO[bytes]) -> bytes:
        # Without `wait_end_of_query`, an error half-way would look like a short answer.
        own = {"database": self._database, "default_format": "JSONEachRow", "wait_end_of_query": "1"}
        query = urlencode({**own, **_SETTINGS, **parameters})
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", f"/?{query}", body=body, headers=self._headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise OperatorError(f"the store at {self._host}:{self._port} does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            reason = answer.decode(errors="replace").strip().splitlines()[:1] or [response.reason]
            raise OperatorError(f"the store at {self._host}:{self._port} refused a query: {reason[0]}")
        return answer


def quoted(text: str) -> str:
    """A string literal of ClickHouse's SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _as_texts(values: Parameters | None) -> dict[str, str]:
    """Values of parameters as ClickHouse reads them: text, with its escapes."""
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t"})
    return {name: str(value).translate(escapes) for name, value in (values or {}).items()}


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""The store on a ClickHouse server, over its HTTP interface.

Tried against a stand-in that runs chDB, never against a live server: the SQL is the same, the
server's own limits and permissions are not known here.
"""

import http.client
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlencode, urlsplit

import msgspec

from extproc.errors import OperatorError
from extproc.lab.store.query_parameters import Parameters, as_parameters

PASSWORD_VARIABLE = "CLICKHOUSE_PASSWORD"  # noqa: S105 - a name, not a password

_TIMEOUT_S = 300.0
_HTTP_PORT, _HTTPS_PORT = 8123, 8443
_SETTINGS = {
    "default_format": "JSONEachRow",
    "output_format_json_quote_64bit_integers": "0",
    "precise_float_parsing": "1",
    "session_timezone": "UTC",
    "wait_end_of_query": "1",  # or an error half-way would look like a short answer
}
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ServerStore:
    """See ``connection.Store``."""

    def __init__(self, address: str) -> None:
        """``clickhouse[s]://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]``; with s, over TLS.

        A password that the address lacks is taken from ``CLICKHOUSE_PASSWORD``. Raises
        ``OperatorError`` for an address that is none; nothing is connected to yet.
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
        given = {f"param_{name}": value for name, value in as_parameters(parameters).items()}
        return [_decode(line) for line in self._post(given, sql.encode()).splitlines()]

    @contextmanager
    def staged(self, segment: Path) -> Iterator[str]:
        """See ``Store``: the segment is sent into a table that goes again."""
        table = f"router_staged_{secrets.token_hex(8)}"
        self.run(f"CREATE TABLE {table} (line String) ENGINE = Memory")
        try:
            with segment.open("rb") as lines:
                self._post({"query": f"INSERT INTO {table} FORMAT LineAsString"}, lines)
            yield table
        finally:
            self.run(f"DROP TABLE {table}")

    def close(self) -> None:
        """See ``Store``: every query has had a connection of its own."""

    def _post(self, parameters: Mapping[str, str], body: bytes | IO[bytes]) -> bytes:
        query = urlencode({"database": self._database, **_SETTINGS, **parameters})
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", f"/?{query}", body=body, headers=self._headers)
            answer = connection.getresponse()
            told = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise OperatorError(f"the store at {self._host}:{self._port} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            reason = told.decode(errors="replace").strip().splitlines()[:1] or [answer.reason]
            raise OperatorError(f"the store at {self._host}:{self._port} refused a query: {reason[0]}")
        return told

"""The store in this process, and on a ClickHouse server: here a stand-in that answers HTTP with chDB."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from chdb.session import Session

from extproc.errors import OperatorError
from extproc.lab.store.record_store import Store, open_store, quoted
from extproc.lab.store.segment_loading import ImportedSegment, load, prepare
from extproc.telemetry.rows import AnyRow
from tests.lab.store.conftest import FULL, ROWS


def test_a_store_at_a_path_is_there_the_next_time(tmp_path: Path) -> None:
    where = str(tmp_path / "store")
    for expected in (0, 1):
        with open_store(where) as store:
            prepare(store)
            assert store.rows("SELECT count() AS n FROM otel_traces") == [{"n": expected}]
            store.run("INSERT INTO otel_traces (TraceId) VALUES ('t')")


def test_a_store_without_a_path_ends_with_its_use() -> None:
    for _ in range(2):
        with open_store(None) as store:
            store.run("CREATE TABLE t (a Int64) ENGINE = Memory")


def test_parameters_and_results_keep_their_types_and_precision(store: Store) -> None:
    given = {"text": "it's\n\\", "whole": 2**62, "number": 0.1 + 0.2}
    (found,) = store.rows("SELECT {text:String} AS t, {whole:Int64} AS w, {number:Float64} AS n", given)
    assert found == {"t": given["text"], "w": given["whole"], "n": given["number"]}


def test_a_query_that_is_refused_is_an_operators_error(store: Store) -> None:
    with pytest.raises(OperatorError, match=r"the store refused a query: .*no_such_column"):
        store.rows("SELECT no_such_column")


def test_a_path_that_another_process_has_open_is_an_operators_error(tmp_path: Path) -> None:
    where = str(tmp_path / "store")
    code = "import sys; from chdb.session import Session; s = Session(sys.argv[1]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OperatorError, match="cannot be opened"), open_store(where):
            pass
        other.communicate(b"\n")


@pytest.mark.parametrize("text", ["", "it's", "\\", "\\'", "a\nb", "ä"])
def test_a_quoted_text_is_itself(store: Store, text: str) -> None:
    assert store.rows(f"SELECT {quoted(text)} AS t") == [{"t": text}]


class StandIn(BaseHTTPRequestHandler):
    """The few things that the HTTP interface does: query and body, parameters, users, errors."""

    session: ClassVar[Session]
    inbox: ClassVar[Path]

    def do_POST(self) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = self._body()
        if self.headers["X-ClickHouse-Key"] != "secret":
            self._answer(401, b"Code: 516. DB::Exception: default: Authentication failed\nmore")
            return
        given = {name[6:]: value for name, value in asked.items() if name.startswith("param_")}
        try:
            for name in (
                "output_format_json_quote_64bit_integers",
                "precise_float_parsing",
                "session_timezone",
            ):
                self.session.query(f"SET {name} = '{asked[name]}'")
            if "query" in asked:  # the body is the data
                self.inbox.write_bytes(body)
                table = asked["query"].removeprefix("INSERT INTO ").removesuffix(" FORMAT LineAsString")
                source = f"file({quoted(str(self.inbox))}, 'LineAsString', 'line String')"
                told = self.session.query(f"INSERT INTO {table} SELECT line FROM {source}")
            else:
                told = self.session.query(body.decode(), asked["default_format"], params=given)
            self._answer(200, bytes(told.bytes()))
        except RuntimeError as error:
            self._answer(500, str(error).encode())

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *args: object) -> None:
        """Not on stderr."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    StandIn.session, StandIn.inbox = Session(), tmp_path / "inbox"
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    StandIn.session.close()


@pytest.fixture
def remote(address: str) -> Iterator[Store]:
    with open_store(f"clickhouse://default:secret@{address}/default") as store:
        yield store


def test_the_same_statements_and_queries_run_over_http(
    remote: Store, segment: Callable[[Sequence[AnyRow]], Path]
) -> None:
    prepare(remote)
    path = segment(ROWS)
    assert load(remote, path) == ImportedSegment(1, 7, rows=7, known=0, bad=0)
    assert load(remote, path) == ImportedSegment(1, 7, rows=0, known=7, bad=0)
    found = remote.rows(
        "SELECT model, input_tokens FROM exchanges WHERE request_id = {id:String}", {"id": "r1"}
    )
    assert found == [{"model": FULL.model, "input_tokens": FULL.input_tokens}]
    assert remote.rows("SELECT name FROM system.tables WHERE name LIKE 'router_staged%'") == []


def test_a_password_may_come_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "secret")
    with open_store(f"clickhouse://{address}") as store:
        assert store.rows("SELECT 1 AS one") == [{"one": 1}]


def test_what_the_server_refuses_is_an_operators_error_with_its_first_line(
    address: str, remote: Store
) -> None:
    with (
        open_store(f"clickhouse://{address}") as store,
        pytest.raises(OperatorError, match=rf"{address} refused a query: Code: 516.*Authentication failed$"),
    ):
        store.run("SELECT 1")
    with pytest.raises(OperatorError, match=r"refused a query: .*nothing_there"):
        remote.rows("SELECT nothing_there")


def test_a_server_that_is_not_there_is_an_operators_error() -> None:
    with (
        open_store("clickhouse://127.0.0.1:1") as store,
        pytest.raises(OperatorError, match="does not answer"),
    ):
        store.run("SELECT 1")


@pytest.mark.parametrize("address", ["clickhouse://", "clickhouse://host:port", "postgres://host/db"])
def test_an_address_that_is_none_is_an_operators_error(address: str) -> None:
    with pytest.raises(OperatorError, match="--store: "), open_store(address):
        pass

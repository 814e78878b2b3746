import subprocess
import sys
from pathlib import Path

import pytest

from extproc.errors import OperatorError
from extproc.lab.store.connection import Store, open_store
from extproc.lab.store.embedded_store import quoted
from extproc.lab.store.segment_loading import prepare


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

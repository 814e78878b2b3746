"""What a store can do, and opening the one that an operator named."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from extproc.errors import OperatorError
from extproc.lab.store.query_parameters import Parameters


class Store(Protocol):
    """A database that speaks ClickHouse's SQL. Every method raises ``OperatorError`` when it refuses."""

    def run(self, sql: str) -> None:
        """Run a statement that answers nothing."""
        ...

    def rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """The rows of a query, by column name; ``{name:Type}`` in it stands for a parameter."""
        ...

    def staged(self, segment: Path) -> AbstractContextManager[str]:
        """What to write behind FROM to read a segment's lines, as one column ``line``."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def is_server(where: str | None) -> bool:
    """Whether ``where`` is the address of a server, which others set up, too."""
    return where is not None and where.startswith(("clickhouse://", "clickhouses://"))


@contextmanager
def open_store(where: str | None) -> Iterator[Store]:
    """The store at ``where``: a path (chDB), a clickhouse:// address, or None for one that vanishes.

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
        from extproc.lab.store.clickhouse_store import ServerStore

        return ServerStore(where)
    if where is not None and "://" in where:
        raise OperatorError(
            f"--store: {where} is no store (expected a path, or clickhouse://HOST:PORT/DATABASE)"
        )
    from extproc.lab.store.embedded_store import EmbeddedStore

    return EmbeddedStore(None if where is None else Path(where))

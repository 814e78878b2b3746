import logging
from collections.abc import Callable

import pytest

from extproc.telemetry.sinks import Fanout
from extproc.vocabulary import Exchange


class Keeping:
    def __init__(self) -> None:
        self.kept: list[Exchange] = []

    def accept(self, exchange: Exchange) -> None:
        self.kept.append(exchange)


class Broken:
    def accept(self, exchange: Exchange) -> None:
        raise RuntimeError("a defect")


def test_every_sink_gets_every_exchange_though_one_is_broken(
    exchange: Callable[..., Exchange], caplog: pytest.LogCaptureFixture
) -> None:
    first, last = Keeping(), Keeping()
    sink = Fanout([first, Broken(), last])
    one, two = exchange(), exchange(request_id="2")
    with caplog.at_level(logging.ERROR):
        sink.accept(one)
        sink.accept(two)
    assert first.kept == last.kept == [one, two]
    assert [record.__dict__["sink"] for record in caplog.records] == ["Broken", "Broken"]

"""One exchange to several sinks."""

import logging
from collections.abc import Sequence

from extproc.vocabulary import Exchange, ExchangeSink

log = logging.getLogger(__name__)


class Fanout:
    """Gives each exchange to every sink; a defect in one of them costs the others nothing."""

    def __init__(self, sinks: Sequence[ExchangeSink]) -> None:
        self._sinks = tuple(sinks)

    def accept(self, exchange: Exchange) -> None:
        """Never raises: a sink that does has its traceback logged."""
        for sink in self._sinks:
            try:
                sink.accept(exchange)
            except Exception:
                log.exception("a telemetry sink failed", extra={"sink": type(sink).__name__})

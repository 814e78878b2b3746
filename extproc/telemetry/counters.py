"""Counters by name, so that their series can begin at 0 before anything is counted."""

from collections.abc import Iterable

from opentelemetry.metrics import Counter, Meter

from extproc.telemetry.initial_series import Series


class Counters:
    """Makes the counters of one meter, and remembers them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Counter] = {}

    def create(self, name: str, description: str) -> Counter:
        """A counter; each name is made once."""
        self._made[name] = counter = self._meter.create_counter(name, description=description)
        return counter

    def begin(self, series: Iterable[Series]) -> None:
        """Begin each of these series at 0; one that has begun goes on as it is."""
        for name, labels in series:
            self._made[name].add(0, labels)

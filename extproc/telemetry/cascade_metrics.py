"""The instruments of cascades: the tier that answered, calls, verdicts, cost, and an escalation alarm.

The alarm is for a gate that no longer does what it was calibrated for: among the last answers that this
process recorded, the share that the gate refused has left the expected band by more than chance
explains. Each process measures its own share of the traffic.
"""

import math
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from extproc.registry.cascade_settings import Band
from extproc.registry.tier_compiling import Bands, TierPlace
from extproc.telemetry import otel_names
from extproc.telemetry.initial_series import LAST_RESORT, Counters
from extproc.telemetry.rows import AttemptRow, ExchangeRow

_WINDOW: Final = 500  # verdicts of a tier
_LEAST: Final = 100  # fewer prove nothing
_CHANCE: Final = 3.0  # standard errors of a share at the band's edge
_MANY: Final = 3  # calls for one request: it paid for three


class Judged(msgspec.Struct, frozen=True):
    """The latest verdicts of a tier's gate."""

    share: float  # of its last answers, refused
    verdicts: int

    def is_outside(self, band: Band) -> bool:
        """Whether the share has left ``band`` by more than chance explains."""
        if self.verdicts < _LEAST:
            return False
        return (
            self.share < band.least - _error(band.least, self.verdicts)
            or self.share > band.most + _error(band.most, self.verdicts)
        )  # fmt: skip


class Cascades:
    """Counts what cascades did. Safe to call from any thread; nothing here raises or waits."""

    def __init__(self, meter: Meter, counters: Counters) -> None:
        count = counters.create
        self._exchanges = count(
            otel_names.CASCADE_EXCHANGES,
            description="Exchanges of cascades by the tier that answered and the calls made; 3 is 3 or more.",
        )
        self._verdicts = count(
            otel_names.CASCADE_VERDICTS, description="Verdicts of gates by tier and reason."
        )
        self._wasted = count(
            otel_names.CASCADE_WASTED,
            description="US dollars for answers that a gate refused, by tier.",
        )
        self._cost = count(otel_names.CASCADE_COST, description="US dollars for all calls of cascades.")
        self._reference = count(
            otel_names.CASCADE_REFERENCE_COST,
            description="US dollars for the answers alone at the reference price. Minus the cost: savings.",
        )
        for name, description, observe in (
            (
                otel_names.ESCALATION_SHARE,
                "Share of a tier's latest answers that its gate refused.",
                self._shares,
            ),
            (otel_names.ESCALATION_EXPECTED, "Expected bounds of a tier's escalation share.", self._expected),
            (
                otel_names.ESCALATION_ALARM,
                "1 if a tier's escalation share is outside its expected bounds beyond chance.",
                self._alarms,
            ),
        ):
            meter.create_observable_gauge(name, [observe], description=description)
        self._lock = threading.Lock()
        self._last: dict[TierPlace, deque[bool]] = {}
        self._bands: Bands = {}

    def expect(self, bands: Bands) -> None:
        """Set the expected bands of the newest registry."""
        self._bands = bands

    def accept(self, row: ExchangeRow) -> None:
        """Count one finished exchange, if it was a cascade's."""
        if not row.cascade:
            return
        labels = {otel_names.ROUTER_CASCADE: row.cascade}
        calls = str(min(row.attempts or 1, _MANY))
        self._exchanges.add(
            1, labels | {otel_names.ROUTER_TIER: _tier(row.tier), otel_names.ROUTER_CALLS: calls}
        )
        if row.cost_usd is not None and row.reference_cost_usd is not None:
            self._cost.add(row.cost_usd, labels)
            self._reference.add(row.reference_cost_usd, labels)

    def attempted(self, row: AttemptRow) -> None:
        """Count the verdict on one attempt, if there was one."""
        if not row.verdict or row.tier is None:
            return
        labels = {otel_names.ROUTER_CASCADE: row.cascade, otel_names.ROUTER_TIER: _tier(row.tier)}
        verdict = {
            otel_names.ROUTER_VERDICT: row.verdict,
            otel_names.ROUTER_VERDICT_REASON: row.verdict_reason,
        }
        self._verdicts.add(1, labels | verdict)
        if row.wasted_cost_usd is not None:
            self._wasted.add(row.wasted_cost_usd, labels)
        with self._lock:
            last = self._last.setdefault((row.cascade, row.tier), deque(maxlen=_WINDOW))
            last.append(row.verdict == "escalate")

    def _shares(self, _: CallbackOptions) -> Iterator[Observation]:
        for place, judged in self._judged():
            yield Observation(judged.share, _labels(place))

    def _expected(self, _: CallbackOptions) -> Iterator[Observation]:
        for place, band in self._bands.items():
            for bound, share in (("least", band.least), ("most", band.most)):
                yield Observation(share, _labels(place) | {otel_names.BOUND: bound})

    def _alarms(self, _: CallbackOptions) -> Iterator[Observation]:
        for place, judged in self._judged():
            band = self._bands.get(place)
            if band is not None:
                yield Observation(int(judged.is_outside(band)), _labels(place))

    def _judged(self) -> list[tuple[TierPlace, Judged]]:
        with self._lock:
            return [(place, Judged(sum(last) / len(last), len(last))) for place, last in self._last.items()]


def _labels(place: TierPlace) -> dict[str, str]:
    return {otel_names.ROUTER_CASCADE: place[0], otel_names.ROUTER_TIER: str(place[1])}


def _tier(tier: int | None) -> str:
    return LAST_RESORT if tier is None else str(tier)


def _error(share: float, verdicts: int) -> float:
    return _CHANCE * math.sqrt(share * (1.0 - share) / verdicts)

"""Limits of the questions to an LLM, per process: share of requests, calls and dollars, and a breaker.

Each process counts for itself, so that no state is shared. With N sidecars, up to N times as much is spent.
"""

from typing import Final

_SHARE_BURST: Final = 20.0  # calls that a share may save up while no request is in doubt
FAILURES: Final = 5  # in a row open the breaker
OPEN_S: Final = 30.0  # seconds until one call is tried again


class ShareBudget:
    """Allows calls for a share of requests. Each request adds its share, up to 20 calls."""

    def __init__(self) -> None:
        self._saved = 1.0  # so that the first request in doubt may be asked about

    def note(self, share: float) -> None:
        """Count one request, of which ``share`` may be asked about."""
        self._saved = min(_SHARE_BURST, self._saved + share)

    def left(self) -> bool:
        """Whether one more call may be made."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """Count one call."""
        self._saved -= 1.0


class DollarBudget:
    """Allows calls while less than an hour's dollars are owed. What is owed decreases with time."""

    def __init__(self, now: float) -> None:
        """``now`` is in seconds of any clock."""
        self._owed = 0.0
        self._at = now

    def left(self, per_hour: float, now: float) -> bool:
        """Whether one more call may be made. A call is charged after it, so the last one may exceed this."""
        self._owed = max(0.0, self._owed - (now - self._at) * per_hour / 3600.0)
        self._at = now
        return self._owed < per_hour

    def charge(self, dollars: float) -> None:
        """Add what a call cost."""
        self._owed += dollars


class Breaker:
    """Stops calls for half a minute after five failures in a row. Then one call is tried."""

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0

    def closed(self, now: float) -> bool:
        """Whether a call may be made. Each call that is made must be told to ``begin``."""
        return self._failures < FAILURES or now >= self._open_until

    def begin(self, now: float) -> None:
        """Count the start of a call. After the pause, no other begins until it ends or another pause does."""
        if self._failures >= FAILURES:
            self._open_until = now + OPEN_S

    def note(self, failed: bool, now: float) -> None:
        """Count the end of a call."""
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= FAILURES:
            self._open_until = now + OPEN_S

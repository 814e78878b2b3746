"""How many calls may be made: a bucket of tokens that fills with time."""


class TokenBucket:
    """Allows ``per_second`` calls in the long run, and as many at once, but never less than one."""

    def __init__(self, per_second: float, now: float) -> None:
        """``now`` is in seconds, from anywhere."""
        self._size = max(1.0, per_second)
        self._tokens = self._size
        self._at = now

    def take(self, per_second: float, now: float) -> bool:
        """Whether one more may be made; the allowance may change from one registry to the next."""
        self._size = max(1.0, per_second)
        self._tokens = min(self._size, self._tokens + (now - self._at) * per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

"""Calls other models through Envoy's egress listener, within a deadline, a budget and a size."""

import asyncio
import logging
from collections.abc import Callable

from extproc.egress import http_client
from extproc.gate.consultation import Consultation, ConsultationResult, FailureReason

log = logging.getLogger(__name__)

EGRESS_HEADER = "x-router-egress"  # on each call, read by Envoy only: the model that is asked
ANSWER_LIMIT = 8 * 1024 * 1024  # bytes of a response body


class TokenBucket:
    """Allows ``per_second`` calls on average. A burst may be as large, and is at least one."""

    def __init__(self, per_second: float, now: float) -> None:
        """``now`` is in seconds of any clock."""
        self._size = max(1.0, per_second)
        self._tokens = self._size
        self._at = now

    def take(self, per_second: float, now: float) -> bool:
        """Whether one more call may be made. ``per_second`` may change when the registry is reloaded."""
        self._size = max(1.0, per_second)
        self._tokens = min(self._size, self._tokens + (now - self._at) * per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Egress:
    """Makes the calls of gates and of requests in doubt. One per process, on its event loop."""

    def __init__(self, address: str, clock: Callable[[], float], answer_limit: int = ANSWER_LIMIT) -> None:
        """``address`` is Envoy's ``envoy.egress``. ``clock`` counts seconds. ``answer_limit`` is in bytes."""
        self._address = address
        self._clock = clock
        self._answer_limit = answer_limit
        self._buckets: dict[str, TokenBucket] = {}

    async def ask(self, consultation: Consultation, within_s: float | None) -> ConsultationResult:
        """See ``gate.consultation.ModelClient``."""
        seconds = consultation.deadline_s if within_s is None else min(consultation.deadline_s, within_s)
        if seconds <= 0:
            return ConsultationResult(failure=FailureReason.TIMEOUT)
        if not self._is_affordable(consultation):
            return ConsultationResult(failure=FailureReason.BUDGET)
        headers = {
            **consultation.headers,
            "content-type": "application/json",
            EGRESS_HEADER: consultation.model,
        }
        try:
            async with asyncio.timeout(seconds):
                answer = await http_client.post(
                    self._address, consultation.path, headers, consultation.body, self._answer_limit
                )
        except TimeoutError:
            return ConsultationResult(failure=FailureReason.TIMEOUT)
        except (OSError, EOFError, http_client.BadHttpResponse) as error:
            log.warning("The call to the model %s failed: %s", consultation.model, error)
            return ConsultationResult(failure=FailureReason.FAILED)
        if answer.status != 200:
            return ConsultationResult(failure=FailureReason.FAILED)
        return ConsultationResult(answer.status, answer.body)

    def _is_affordable(self, consultation: Consultation) -> bool:
        if consultation.per_second is None:
            return True
        now = self._clock()
        bucket = self._buckets.setdefault(consultation.budget_key, TokenBucket(consultation.per_second, now))
        return bucket.take(consultation.per_second, now)

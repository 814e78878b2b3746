"""Asking other models through Envoy's egress listener: within a deadline, a budget and a size."""

import asyncio
import logging
from collections.abc import Callable

from extproc.egress import http_client
from extproc.egress.call_budget import TokenBucket
from extproc.gate.second_answer import Advice, Consultation, Trouble

log = logging.getLogger(__name__)

EGRESS_HEADER = "x-router-egress"  # on each call, for Envoy alone: the model that is asked
ANSWER_LIMIT = 8 * 1024 * 1024  # bytes


class Egress:
    """Makes the calls that gates want. One per process, on its event loop."""

    def __init__(self, address: str, clock: Callable[[], float], answer_limit: int = ANSWER_LIMIT) -> None:
        """``address`` is Envoy's ``envoy.egress``; ``clock`` counts seconds from anywhere."""
        self._address = address
        self._clock = clock
        self._answer_limit = answer_limit
        self._purses: dict[str, TokenBucket] = {}

    async def ask(self, consultation: Consultation, within_s: float | None) -> Advice:
        """See ``wire.gate_stream.Adviser``."""
        seconds = consultation.deadline_s if within_s is None else min(consultation.deadline_s, within_s)
        if seconds <= 0:
            return Advice(trouble=Trouble.TIMEOUT)
        if not self._affords(consultation):
            return Advice(trouble=Trouble.BUDGET)
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
            return Advice(trouble=Trouble.TIMEOUT)
        except (OSError, EOFError, http_client.BadAnswer) as error:
            log.warning("the model %s could not be asked for a gate: %s", consultation.model, error)
            return Advice(trouble=Trouble.FAILED)
        if answer.status != 200:
            return Advice(trouble=Trouble.FAILED)
        return Advice(answer.status, answer.body)

    def _affords(self, consultation: Consultation) -> bool:
        if consultation.per_second is None:
            return True
        now = self._clock()
        purse = self._purses.setdefault(consultation.purse, TokenBucket(consultation.per_second, now))
        return purse.take(consultation.per_second, now)

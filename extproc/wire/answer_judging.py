"""Judging answers as they come: between a gate's machine, which knows bytes, and what judges texts."""

import time
from collections.abc import Callable, Mapping

import msgspec

from extproc import apis
from extproc.apis import answers
from extproc.apis.answers import AnswerReader
from extproc.apis.model_answer import ModelAnswer
from extproc.gate import request_form, second_answer, verifier
from extproc.gate.gate_vocabulary import Asked, Verdict
from extproc.gate.judge import said
from extproc.gate.second_answer import Advice, Consultation, FailureReason
from extproc.registry.gate_settings import SecondSettings as SecondTerms
from extproc.registry.gate_settings import VerifierSettings
from extproc.registry.tier_compiling import Consulted, JudgedTier
from extproc.vocabulary import Api, RequestHead, Ruling, SecondAnswer
from extproc.wire.decide_messages import VERSION_KEY
from extproc.wire.gate_exchange import AnswerWatch, Watched
from extproc.wire.gate_headers import BEGAN_HEADER

_TOLD_ON = ("x-request-id", "traceparent", "tracestate")  # of the request, to whoever is consulted
_SLACK_S = 0.001  # what is left of a deadline that has passed: nothing, but a time


class Gatekeepers:
    """Judges the answer of a tier as the version of the registry says by which it was decided."""

    def __init__(
        self, tiers: Callable[[str], Mapping[str, JudgedTier]], now: Callable[[], float] = time.time
    ) -> None:
        """``tiers`` gives those of a version, of the newest for an Envoy that does not say which it holds.

        ``now`` gives the time of day, in seconds since the epoch.
        """
        self._tiers = tiers
        self._now = now

    def watch(self, tier: str, head: RequestHead, body: bytes) -> Watched | None:
        """See ``gate_exchange.Gatekeeper``. Of a version that is not known here nothing is judged."""
        policy = self._tiers(head.headers.get(VERSION_KEY, "")).get(tier)
        api = apis.api_of(head.method, head.path)
        if policy is None or api is None:
            return None
        asked = _Asked(request_form.read(api, body), head, body)
        return Watched(_Reading(asked, policy), self._seconds(policy, head))

    def _seconds(self, policy: JudgedTier, head: RequestHead) -> float | None:
        """The tier's own time or, where that is less, what is left of what all tiers share."""
        limits = [] if policy.timeout_s is None else [policy.timeout_s]
        began = head.headers.get(BEGAN_HEADER, "")
        if policy.deadline_s is not None and began.isdecimal():
            limits.append(max(_SLACK_S, int(began) / 1000 + policy.deadline_s - self._now()))
        return min(limits, default=None)


class _Asked(msgspec.Struct, frozen=True):
    """The request whose answer is judged."""

    read: Asked
    head: RequestHead
    body: bytes


class _Reading(AnswerWatch):
    """One answer: a document that is judged whole, or a stream that is judged so far."""

    def __init__(self, asked: _Asked, tier: JudgedTier) -> None:
        self._request = asked
        self._asked = asked.read
        self._tier = tier
        self._status = 200
        self._document = bytearray()
        self._stream: AnswerReader | None = None
        self._judged: tuple[ModelAnswer, Verdict] | None = None  # while a second answer is awaited

    def on_head(self, status: int, content_type: str) -> bool:
        self._status = status
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            self._stream = AnswerReader(self._asked.api, status)
            return self._tier.stream != "off"
        return kind == "application/json" or kind.endswith("+json")

    def on_body(self, data: bytes, ended: bool) -> Ruling | Consultation | None:
        if self._stream is None:
            self._document += data
            if not ended:
                return None
            answer = answers.read(self._asked.api, bytes(self._document), self._status)
        else:
            self._stream.feed(data)
            if not (ended or self._is_enough(self._stream)):
                return None
            answer = self._stream.answer(ended=ended)
        verdict = self._tier.judge.judge(self._asked, answer)
        second = self._tier.second
        if second is None or not self._needs_second_answer(verdict, second.terms):
            return self._ruling(verdict)
        wanted = self._consultation(answer, second)
        if wanted is None:
            return self._without(verdict, second, SecondAnswer(second.model, "unasked"))
        self._judged = (answer, verdict)
        return wanted

    def on_second_answer(self, advice: Advice) -> Ruling:
        second = self._tier.second
        assert second is not None
        assert self._judged is not None  # it is told only what it has asked for
        answer, verdict = self._judged
        if advice.failure:
            return self._without(verdict, second, SecondAnswer(second.model, advice.failure))
        if isinstance(second.terms, VerifierSettings):
            return self._verified(verdict, second, second.terms, advice)
        read, written = second_answer.usage(self._asked.api, advice.body)
        other = answers.read(self._asked.api, advice.body, advice.status)
        if other.failed or not other.complete or not said(other):
            return self._without(
                verdict, second, SecondAnswer(second.model, FailureReason.FAILED, read, written)
            )
        verdict = self._tier.judge.judge(self._asked, answer, other)
        return self._ruling(verdict, SecondAnswer(second.model, "answered", read, written))

    def on_timeout(self) -> Ruling:
        return Ruling(escalate=True, gate=self._tier.gate, reason="late")

    def _is_enough(self, stream: AnswerReader) -> bool:
        if self._tier.stream != "prefix":
            return False
        return (
            stream.events >= self._tier.prefix_events or len(stream.answer().text) >= self._tier.prefix_chars
        )

    def _needs_second_answer(self, verdict: Verdict, terms: SecondTerms | VerifierSettings) -> bool:
        if isinstance(terms, VerifierSettings):
            return verdict.keep is True
        return self._tier.judge.needs_second_answer(verdict)

    def _verified(
        self, verdict: Verdict, second: Consulted, terms: VerifierSettings, advice: Advice
    ) -> Ruling:
        read, written = second_answer.usage(Api.OPENAI_CHAT, advice.body)
        word = answers.read(Api.OPENAI_CHAT, advice.body, advice.status)
        score = verifier.score(word.text)
        if word.failed or score is None:
            return self._without(
                verdict, second, SecondAnswer(second.model, FailureReason.FAILED, read, written)
            )
        if score < terms.min_score:
            verdict = Verdict(False, verdict.score, "verifier", "low_score")
        return self._ruling(verdict, SecondAnswer(second.model, "answered", read, written, score))

    def _consultation(self, answer: ModelAnswer, second: Consulted) -> Consultation | None:
        """None: it does not speak the request's API, or the request cannot be put to it."""
        head, terms = self._request.head, second.terms
        if isinstance(terms, VerifierSettings):
            path = verifier.PATH
            body = verifier.request(second.sent, self._asked.text, said(answer), terms.prompt)
        else:
            asked = second_answer.asked_of(second.sent, self._request.body, terms.temperature)
            if self._asked.api not in second.speaks or asked is None:
                return None
            path, body = head.path.partition("?")[0], asked
        return Consultation(
            model=second.model,
            path=path,
            headers={name: head.headers[name] for name in _TOLD_ON if name in head.headers},
            body=body,
            deadline_s=terms.deadline_s,
            budget_key=self._tier.gate,
            per_second=terms.budget,
        )

    def _without(self, verdict: Verdict, second: Consulted, became: SecondAnswer) -> Ruling:
        """There is no second opinion."""
        if verdict.keep and second.terms.on_error == "escalate":
            verdict = Verdict(False, verdict.score, "second", became.outcome)
        return self._ruling(verdict, became)

    def _ruling(self, verdict: Verdict, second: SecondAnswer | None = None) -> Ruling:
        """Only what is rejected goes on; of a beginning that says nothing the rest is awaited by nobody."""
        return Ruling(
            escalate=verdict.keep is False,
            gate=self._tier.gate,
            reason="/".join(part for part in (verdict.gate, verdict.reason) if part),
            score=verdict.score,
            second=second,
        )

"""Judging one answer while it arrives: its bytes in, a ruling or a call to another model out."""

from typing import Protocol

import msgspec

from extproc.apis import answers
from extproc.apis.answers import AnswerReader
from extproc.apis.model_answer import ModelAnswer
from extproc.exchanges import Ruling, SecondAnswer
from extproc.gate.consultation import (
    VERIFIER_PATH,
    Consultation,
    ConsultationResult,
    FailureReason,
    second_request,
    usage,
    verifier_request,
    verifier_score,
)
from extproc.gate.judge import Verdict, text_of
from extproc.gate.judged_request import JudgedRequest
from extproc.gate.judged_tier import Consulted, JudgedTier, VerifierTerms
from extproc.vocabulary import Api, RequestHead

_FORWARDED_HEADERS = ("x-request-id", "traceparent", "tracestate")  # of the request, on a call for it


class AnswerWatch(Protocol):
    """Judges one answer while it arrives."""

    def on_head(self, status: int, content_type: str) -> bool:
        """Whether this answer is judged. If not, it passes unchanged."""
        ...

    def on_body(self, data: bytes, ended: bool) -> Ruling | Consultation | None:
        """Reads the next bytes of the body. None: the gate needs more of it."""
        ...

    def on_second_answer(self, result: ConsultationResult) -> Ruling:
        """The ruling after a consultation has succeeded or failed."""
        ...

    def on_timeout(self) -> Ruling:
        """The ruling when the time ends before the answer does."""
        ...


class _Pending(msgspec.Struct, frozen=True):
    """An answer whose ruling waits for another model."""

    answer: ModelAnswer
    verdict: Verdict
    consulted: Consulted


class TierWatch(AnswerWatch):
    """Judges an answer of one tier: a document when it is complete, a stream by the tier's setting."""

    def __init__(
        self,
        tier: JudgedTier,
        request: JudgedRequest,
        head: RequestHead,
        body: bytes,
        labels: frozenset[str] = frozenset(),
    ) -> None:
        """``head``, ``body`` and ``labels`` are those of ``request``."""
        self._request = request
        self._head = head
        self._body = body
        self._labels = labels
        self._tier = tier
        self._status = 200
        self._document = bytearray()
        self._stream: AnswerReader | None = None
        self._pending: _Pending | None = None  # during a consultation

    def on_head(self, status: int, content_type: str) -> bool:
        self._status = status
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            self._stream = AnswerReader(self._request.api, status)
            return self._tier.stream != "off"
        return kind == "application/json" or kind.endswith("+json")

    def on_body(self, data: bytes, ended: bool) -> Ruling | Consultation | None:
        answer = self._read(data, ended)
        return None if answer is None else self._judge(answer)

    def on_second_answer(self, result: ConsultationResult) -> Ruling:
        assert self._pending is not None  # it was asked for in ``on_body``
        pending, consulted = self._pending, self._pending.consulted
        if result.failure:
            return self._without(pending.verdict, consulted, SecondAnswer(consulted.model, result.failure))
        if isinstance(consulted.terms, VerifierTerms):
            return self._verified(pending, consulted.terms, result)
        return self._compared(pending, result)

    def on_timeout(self) -> Ruling:
        return Ruling(escalate=True, gate=self._tier.gate, reason="late")

    def _read(self, data: bytes, ended: bool) -> ModelAnswer | None:
        """The answer once there is enough of it to judge."""
        if self._stream is not None:
            self._stream.feed(data)
            return self._stream.answer(ended=ended) if ended or self._is_enough(self._stream) else None
        self._document += data
        return answers.read(self._request.api, bytes(self._document), self._status) if ended else None

    def _is_enough(self, stream: AnswerReader) -> bool:
        tier = self._tier
        return tier.stream == "prefix" and (
            stream.events >= tier.prefix_events or len(stream.answer().text) >= tier.prefix_chars
        )

    def _judge(self, answer: ModelAnswer) -> Ruling | Consultation:
        verdict, consulted = self._tier.judge.judge(self._request, answer), self._tier.consulted
        if consulted is None or not self._needs_consultation(verdict, consulted):
            return self._ruling(verdict)
        if not self._labels <= consulted.cleared_for:
            return self._without(verdict, consulted, SecondAnswer(consulted.model, "not_cleared"))
        consultation = self._consultation(answer, consulted)
        if consultation is None:
            return self._without(verdict, consulted, SecondAnswer(consulted.model, "unasked"))
        self._pending = _Pending(answer, verdict, consulted)
        return consultation

    def _needs_consultation(self, verdict: Verdict, consulted: Consulted) -> bool:
        if isinstance(consulted.terms, VerifierTerms):
            return verdict.keep is True
        return self._tier.judge.needs_second_answer(verdict)

    def _consultation(self, answer: ModelAnswer, consulted: Consulted) -> Consultation | None:
        """None: the other model does not speak the request's API, or the request is no JSON object."""
        call = self._call(answer, consulted)
        if call is None:
            return None
        path, body = call
        headers = self._head.headers
        return Consultation(
            model=consulted.model,
            path=path,
            headers={name: headers[name] for name in _FORWARDED_HEADERS if name in headers},
            body=body,
            deadline_s=consulted.deadline_s,
            budget_key=self._tier.gate,
            per_second=consulted.calls_per_s,
        )

    def _call(self, answer: ModelAnswer, consulted: Consulted) -> tuple[str, bytes] | None:
        """The path and the body of the call."""
        name, terms = consulted.upstream_model, consulted.terms
        if isinstance(terms, VerifierTerms):
            return VERIFIER_PATH, verifier_request(name, self._request.text, text_of(answer), terms.prompt)
        body = second_request(name, self._body, terms.temperature)
        if self._request.api not in consulted.apis or body is None:
            return None
        return self._head.path.partition("?")[0], body

    def _compared(self, pending: _Pending, result: ConsultationResult) -> Ruling:
        """The ruling with another model's answer to the same request."""
        consulted = pending.consulted
        read, written = usage(self._request.api, result.body)
        other = answers.read(self._request.api, result.body, result.status)
        if other.failed or not other.complete or not text_of(other):
            failed = SecondAnswer(consulted.model, FailureReason.FAILED, read, written)
            return self._without(pending.verdict, consulted, failed)
        verdict = self._tier.judge.judge(self._request, pending.answer, other)
        return self._ruling(verdict, SecondAnswer(consulted.model, "answered", read, written))

    def _verified(self, pending: _Pending, terms: VerifierTerms, result: ConsultationResult) -> Ruling:
        """The ruling with another model's rating."""
        consulted, verdict = pending.consulted, pending.verdict
        read, written = usage(Api.OPENAI_CHAT, result.body)
        rating = answers.read(Api.OPENAI_CHAT, result.body, result.status)
        score = verifier_score(rating.text)
        if rating.failed or score is None:
            failed = SecondAnswer(consulted.model, FailureReason.FAILED, read, written)
            return self._without(verdict, consulted, failed)
        if score < terms.min_score:
            verdict = Verdict(False, verdict.score, "verifier", "low_score")
        return self._ruling(verdict, SecondAnswer(consulted.model, "answered", read, written, score))

    def _without(self, verdict: Verdict, consulted: Consulted, second: SecondAnswer) -> Ruling:
        """The ruling when the other model gave no usable answer."""
        if verdict.keep and consulted.on_error == "escalate":
            verdict = Verdict(False, verdict.score, "second", second.outcome)
        return self._ruling(verdict, second)

    def _ruling(self, verdict: Verdict, second: SecondAnswer | None = None) -> Ruling:
        """Only a rejected answer escalates. A beginning without an objection is released."""
        return Ruling(
            escalate=verdict.keep is False,
            gate=self._tier.gate,
            reason="/".join(part for part in (verdict.gate, verdict.reason) if part),
            score=verdict.score,
            second=second,
        )

"""The two gRPC services that Envoy calls: ext_proc for each request, the access log for its outcome.

Both are registered by Envoy's full method names, and take and give bytes: the exchange's usual
answers are constants, and grpc's own (de)serialisation hooks would only add calls.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from extproc._pb.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsResponse
from extproc.errors import ClientError, DecisionError, ProtocolError
from extproc.offloading import Offload
from extproc.vocabulary import Attempt, Decision, Exchange, ExchangeSink, Question, Terms
from extproc.wire import access_log, decide_messages, feedback_exchange, gate_stream
from extproc.wire.attempt_joining import Attempts
from extproc.wire.body_admission import Admission, AdmissionLimits, Reservation
from extproc.wire.decide_exchange import (
    Admitted,
    AskDecision,
    Decided,
    DecideExchange,
    Effect,
    Event,
    NoRoom,
    Refused,
    Reply,
    Reserve,
    Undecided,
)
from extproc.wire.gate_exchange import GateExchange, Gatekeeper

log = logging.getLogger(__name__)

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
ACCESS_LOG_SERVICE = "envoy.service.accesslog.v3.AccessLogService"

_AT_ONCE = 16  # exchanges: a few milliseconds
# Envoy sends an attempt that was cut off at the latest with the flush after its exchange's.
_ATTEMPTS_LATE_S = 1.0

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, bytes]"  # read() gives bytes or grpc.aio.EOF
_Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Decider(Protocol):
    """What decides: the pipeline."""

    async def decide(self, question: Question) -> Decision:
        """Raises ``errors.ClientError`` to refuse, ``errors.DecisionError`` to leave it to Envoy."""
        ...


class ExternalProcessor:
    """Answers Envoy for each request: one stream, one ``DecideExchange``.

    A defect of ours is answered so that Envoy goes on with its default. Where there is no telling what to
    answer, the stream is ended cleanly, and Envoy does the same, whatever ``failure_mode_allow`` says.
    With ``without_sidecar: refuse`` Envoy's routes answer 503 in both cases, unless the exchange says that
    the request was checked.
    """

    def __init__(
        self,
        decider: Decider,
        *,
        version: Callable[[], str],
        count_failure: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
        prompt_chars: int = 0,
        gatekeeper: Gatekeeper | None = None,
        second_answers: gate_stream.SecondAnswerClient | None = None,
        terms: Callable[[str], Terms] = lambda version: Terms(),
        feedback: feedback_exchange.FeedbackHandler | None = None,
        admission: Admission | None = None,
        count_unread: Callable[[], None] = lambda: None,
        offload: Offload | None = None,
    ) -> None:
        """``version`` is that of the newest registry, for an Envoy that does not say which it holds.

        ``count_failure`` is called with ``decide`` or ``feedback`` for a defect and ``protocol`` for an Envoy
        that sends what it should not; each is logged too. ``clock`` counts seconds from anywhere.
        The first ``prompt_chars`` of each prompt are recorded, for operators who opted in.
        ``gatekeeper`` judges the answers of cascades' tiers; without one they all pass.
        ``second_answers`` asks other models for it; without one, no model is asked.
        ``terms`` gives what a version of the registry says of every request.
        Without ``feedback``, Envoy answers feedback with 503.
        ``admission`` bounds the bytes of bodies in flight; ``count_unread`` is called for
        each body that it did not admit. ``offload`` does the work on large bodies.
        """
        self._decider = decider
        self._gatekeeper = gatekeeper
        self._second_answers = second_answers
        self._version = version
        self._count_failure = count_failure
        self._clock = clock
        self._prompt_chars = prompt_chars
        self._terms = terms
        self._feedback = feedback
        self._admission = admission or Admission(AdmissionLimits())
        self._count_unread = count_unread
        self._offload = offload or Offload()
        self._open = 0
        self._none_open = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio`` server registers."""
        method: _Method = grpc.stream_stream_rpc_method_handler(self._process)
        return grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": method})

    async def finished(self) -> None:
        """Return once no exchange is open."""
        while self._open:
            self._none_open.clear()
            await self._none_open.wait()

    async def _process(self, _: object, context: _Context) -> None:
        self._open += 1
        try:
            await self._converse(context)
        except ProtocolError as error:
            log.warning("an exchange is not routed: %s", error)
            self._count_failure("protocol")
        finally:
            self._open -= 1
            if not self._open:
                self._none_open.set()

    async def _converse(self, context: _Context) -> None:
        # Reading and writing by hand costs a tenth less than an async generator; and ending the
        # stream with the last answer saves the wait for Envoy to end it.
        stream = decide_messages.stream_metadata(context.invocation_metadata() or ())
        if stream.role == feedback_exchange.ROLE:
            await self._take_feedback(stream, context)
            return
        if stream.tier:
            if self._gatekeeper is not None:
                gate = GateExchange(stream.tier, self._gatekeeper)
                await gate_stream.converse(context, stream, gate, self._count_failure, self._second_answers)
            return
        version = stream.config_version or self._version()
        terms = self._terms(version)
        exchange = DecideExchange(version, self._clock, prompt_chars=self._prompt_chars, terms=terms)
        with Reservation(self._admission) as reservation:
            while not exchange.done:
                data = await context.read()
                if data is grpc.aio.EOF:
                    return
                await context.write(await self._answer(exchange, data, stream, reservation))

    async def _take_feedback(self, stream: decide_messages.StreamMetadata, context: _Context) -> None:
        """Feedback. A defect ends the stream, and Envoy answers that it cannot be taken now."""
        if self._feedback is None:
            return
        exchange = feedback_exchange.FeedbackExchange(self._feedback)
        while not exchange.done:
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            event = decide_messages.decode(data, stream)
            try:
                reply = exchange.receive(event)
            except ProtocolError:
                raise
            except Exception:
                log.exception("feedback could not be taken")
                self._count_failure(feedback_exchange.ROLE)
                return
            await context.write(decide_messages.encode(event, reply))

    async def _answer(
        self,
        exchange: DecideExchange,
        data: bytes,
        stream: decide_messages.StreamMetadata,
        reservation: Reservation,
    ) -> bytes:
        size = len(data)
        event = await self._offload.run(size, decide_messages.decode, data, stream)
        try:
            reply = await self._settle(exchange, event, size, reservation)
            return await self._offload.run(size, decide_messages.encode, event, reply)
        except ProtocolError:
            raise
        except Exception:
            log.exception("a request could not be decided; it goes to Envoy's default")
            self._count_failure("decide")
            return decide_messages.encode(event, exchange.give_up())

    async def _settle(
        self, exchange: DecideExchange, event: Event, size: int, reservation: Reservation
    ) -> Reply:
        """``size`` is that of the message whose event this is."""
        while True:
            effect: Effect = await self._offload.run(size, exchange.receive, event)
            match effect:
                case Reserve():
                    event = await self._reserve(effect, reservation)
                case AskDecision():
                    event = await self._ask(effect.question)
                case _:
                    return effect

    async def _reserve(self, effect: Reserve, reservation: Reservation) -> Admitted | NoRoom:
        if await reservation.take(effect.size):
            return Admitted()
        self._count_unread()
        return NoRoom()

    async def _ask(self, question: Question) -> Decided | Refused | Undecided:
        try:
            return Decided(await self._decider.decide(question))
        except ClientError as error:
            return Refused(error)
        except DecisionError as error:
            return Undecided(error.reason)


class AccessLog:
    """Hands every finished exchange that Envoy reports to a sink, and every attempt of its hops.

    Each of Envoy's threads keeps one such stream open for as long as it runs, and never waits for an answer.
    """

    def __init__(self, sink: ExchangeSink, *, count_failure: Callable[[str], None]) -> None:
        """``count_failure`` is called with ``access_log`` for each entry that is lost.

        A message that cannot be decoded counts once: nobody knows how many entries it had.
        """
        self._sink = sink
        self._count_failure = count_failure

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio`` server registers."""
        method: _Method = grpc.stream_unary_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(ACCESS_LOG_SERVICE, {"StreamAccessLogs": method})

    async def _stream(self, _: object, context: _Context) -> bytes:
        stream = _LogStream(self._sink, self._count_failure)
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                await stream.take(data)
        finally:
            stream.end()
        return StreamAccessLogsResponse().SerializeToString()


class _LogStream:
    """One access log stream, with the exchanges and attempts that wait for each other on it."""

    def __init__(self, sink: ExchangeSink, count_failure: Callable[[str], None]) -> None:
        self._sink = sink
        self._count_failure = count_failure
        self._attempts = Attempts()
        self._logged = False  # one traceback a message: a message may hold thousands of entries

    async def take(self, data: bytes) -> None:
        """Hand the entries of one message to the sink, in slices: decisions wait for this loop too."""
        self._logged = False
        try:
            entries = access_log.finished(data)
        except DecodeError:
            self._lose("message")
            return
        before = self._attempts.held
        try:
            while self._take_some(entries):  # noqa: ASYNC110 - lets other tasks run
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            while self._take_some(entries):
                pass  # the server stops; what it received is recorded all the same
            raise
        late = self._attempts.held - before
        if late:
            asyncio.get_running_loop().call_later(_ATTEMPTS_LATE_S, self._release, late)

    def end(self) -> None:
        """Hand on the exchanges that still wait for attempts: no more attempts come on this stream."""
        self._release(self._attempts.held)

    def _take_some(self, entries: Iterator[HTTPAccessLogEntry]) -> bool:
        """Hand some entries to the sink; returns whether there may be more."""
        some = list(islice(entries, _AT_ONCE))
        self._hand_on(self._attempts.join(self._observed(some)))
        return len(some) == _AT_ONCE

    def _release(self, request_ids: Iterable[str]) -> None:
        self._hand_on(self._attempts.release(request_ids))

    def _observed(self, entries: Iterable[HTTPAccessLogEntry]) -> Iterator[Exchange | Attempt]:
        for entry in entries:
            try:
                observed = access_log.observed_in(entry)
            except Exception:
                self._lose("entry")
            else:
                yield observed

    def _hand_on(self, observed: Iterable[Exchange | Attempt]) -> None:
        for each in observed:
            try:
                if isinstance(each, Attempt):
                    self._sink.attempted(each)
                else:
                    self._sink.accept(each)
            except Exception:
                self._lose("entry")

    def _lose(self, what: str) -> None:
        self._count_failure("access_log")
        if not self._logged:
            log.exception("an access log %s is lost; more losses of this message are only counted", what)
            self._logged = True

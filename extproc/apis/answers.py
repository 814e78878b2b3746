"""What a model answered, read from the bytes of its answer: whole, or from a stream as it comes.

Nothing here raises, whatever a provider sends, and what is kept is bounded.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from extproc.apis import anthropic_answers, openai_answers, responses_answers
from extproc.apis.answer_draft import Draft
from extproc.apis.model_answer import ModelAnswer
from extproc.apis.sse_events import EVENT_LIMIT, EventReader
from extproc.vocabulary import Api

_Add = Callable[[Draft, bytes], None]


class _Dialect(msgspec.Struct, frozen=True):
    whole: _Add
    event: _Add


_OPENAI: Final = _Dialect(openai_answers.add_completion, openai_answers.add_completion)
_DIALECTS: Final[Mapping[Api, _Dialect]] = {
    Api.OPENAI_CHAT: _OPENAI,
    Api.OPENAI_COMPLETIONS: _OPENAI,
    Api.OPENAI_RESPONSES: _Dialect(responses_answers.add_response, responses_answers.add_event),
    Api.ANTHROPIC_MESSAGES: _Dialect(anthropic_answers.add_message, anthropic_answers.add_event),
}


# What no answer of the API can be, or deeper than any is.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read(api: Api, body: bytes, status: int = 200) -> ModelAnswer:
    """The answer that a whole JSON ``body`` of ``api`` holds; one above ``EVENT_LIMIT`` is not read."""
    draft = Draft()
    if len(body) <= EVENT_LIMIT:
        draft.done = True
        try:
            _DIALECTS[api].whole(draft, body)
        except _UNREADABLE:
            draft.failed = True
    return draft.answer(status)


class AnswerReader:
    """Reads a stream of server-sent events. How its bytes come in pieces makes no difference."""

    def __init__(self, api: Api, status: int = 200) -> None:
        self._add = _DIALECTS[api].event
        self._status = status
        self._draft = Draft()
        self._reader = EventReader()
        self.events = 0  # that came with data so far

    def feed(self, piece: bytes) -> None:
        """Reads the next bytes."""
        for data in self._reader.feed(piece):
            self.events += 1
            self._event(data)

    def answer(self, *, ended: bool = False) -> ModelAnswer:
        """What was answered so far.

        ``ended`` says that no more bytes come: a stream that did not say itself that it is done has failed.
        """
        self._draft.failed |= ended and not self._draft.done
        return self._draft.answer(self._status)

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._draft.done = True
            return
        try:
            self._add(self._draft, data)
        except msgspec.ValidationError:
            return  # an event of a kind that is not known here, which APIs add at will
        except _UNREADABLE:
            self._draft.failed = True

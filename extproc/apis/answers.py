"""Reads what a model answered from the bytes of its answer: a document, or a stream while it arrives.

Nothing here raises, whatever a provider sends, and what is kept is bounded.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from extproc.apis import anthropic_answers, openai_answers, responses_answers
from extproc.apis.model_answer import Draft, ModelAnswer
from extproc.vocabulary import Api

EVENT_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a document, of a line or of an event's data. Longer ones are dropped."""

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


# The body is not an answer of its API, or is nested too deeply.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read(api: Api, body: bytes, status: int = 200) -> ModelAnswer:
    """The answer in a complete JSON ``body`` of ``api``. A body above ``EVENT_LIMIT`` is not read."""
    draft = Draft()
    if len(body) <= EVENT_LIMIT:
        draft.done = True
        try:
            _DIALECTS[api].whole(draft, body)
        except _UNREADABLE:
            draft.failed = True
    return draft.answer(status)


# --- Streams ------------------------------------------------------------------------------------

# https://html.spec.whatwg.org/#event-stream
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventReader:
    """Gives each event's data. Event names are not read, because all LLM APIs repeat them in the data."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line that has not ended
        self._too_long = False  # the line that is being read
        self._data: list[bytes] = []
        self._size = 0  # bytes of the data, with those that are dropped
        self._return = False  # the last byte was a CR, which may be half of a CRLF
        self._first = True

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that ends in ``piece``, which must be read to its end."""
        if self._return:
            piece = b"\r" + piece
        self._return = piece.endswith(b"\r")
        if self._return:
            piece = piece[:-1]
        start = 0
        for end in _LINE_END.finditer(piece):
            self._keep(piece[start : end.start()])
            yield from self._line()
            start = end.end()
        self._keep(piece[start:])

    def _keep(self, part: bytes) -> None:
        room = EVENT_LIMIT - len(self._rest)
        self._too_long |= len(part) > room
        self._rest += part[:room]

    def _line(self) -> Iterator[bytes]:
        line = bytes(self._rest)
        too_long = self._too_long
        self._rest.clear()
        self._too_long = False
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._size += (EVENT_LIMIT if too_long else len(data)) + 1
            if self._size <= EVENT_LIMIT:
                self._data.append(data)
            else:
                self._data.clear()
        elif not line and not too_long:
            if self._data:
                yield b"\n".join(self._data)
            self._data = []
            self._size = 0


class AnswerReader:
    """Reads a stream of server-sent events, in pieces of any size."""

    def __init__(self, api: Api, status: int = 200) -> None:
        self._add = _DIALECTS[api].event
        self._status = status
        self._draft = Draft()
        self._reader = EventReader()
        self.events = 0  # so far, of those with data

    def feed(self, piece: bytes) -> None:
        """Reads the next bytes."""
        for data in self._reader.feed(piece):
            self.events += 1
            self._event(data)

    def answer(self, *, ended: bool = False) -> ModelAnswer:
        """The answer so far.

        ``ended``: no more bytes come. Then the answer has failed unless the stream said that it is done.
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
            return  # an event of an unknown kind: APIs add new ones
        except _UNREADABLE:
            self._draft.failed = True

"""Server-sent events from bytes that come in any pieces: https://html.spec.whatwg.org/#event-stream."""

import re
from collections.abc import Iterator
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
EVENT_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a line, or of an event's data; of longer ones nothing is kept."""


class EventReader:
    """Gives each event's data. Names of events are not read: all LLM APIs repeat them in the data."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a line that is not ended yet
        self._too_long = False  # the line that is being read
        self._data: list[bytes] = []
        self._size = 0  # of the data, also of what is not kept
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

"""Finds the position of a decoded value in the bytes that it was decoded from."""

from collections.abc import Callable

import numpy as np
from msgspec import Raw

from extproc.vocabulary import Span


def places_in(data: bytes) -> Callable[[Raw], Span]:
    """A function that says where a value decoded from ``data`` stands in it: [start, end).

    ``msgspec.Raw`` is a view into the decoder's input (see ``Raw.copy``), so the difference of the two
    addresses is the offset. Searching for the value's bytes instead could find them in a message, and
    scanning the body in Python would take seconds for a large one.
    """
    base, size = _address(data), len(data)

    def place(value: Raw) -> Span:
        start = _address(value) - base
        end = start + len(value)
        if start < 0 or end > size:
            # An edit in the wrong place would corrupt the request.
            raise RuntimeError("msgspec.Raw is not a view into the decoder's input")
        return start, end

    return place


def _address(buffer: bytes | Raw) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])

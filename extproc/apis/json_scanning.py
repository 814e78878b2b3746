"""Looks into JSON bytes: finds the position of a value, and refuses an object that has a key twice.

Readers differ in which of the two counts: msgspec takes the last, a provider may take the first. So a
rule could read one text and the model another. Two spellings of a key (``content`` and
``con\\u0074ent``) are the same key.

A small body is checked by counting colons. Each key has one colon, a decoder keeps each key once, and an
encoder writes what was kept. So a body has a key twice exactly when it has more colons than what msgspec
decodes and encodes again. Of a large body the long texts are cut out first, as they hold no keys. What
is still large, or what counting cannot settle, is read by the standard library's decoder, which shows
every pair of key and value. All of this is linear in the size of the body.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np
from msgspec import Raw

from extproc.errors import BadRequest
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


# --- Keys that are given twice ------------------------------------------------------------------

_SMALL = 64 * 1024  # bytes; above it the standard library is faster than counting
_LONG = 1024  # bytes of a value that is worth cutting out
_DEPTH = 3  # how deep long values are looked for: messages, content, source
_SPARSE = 16  # bytes a value has on average where it is worth building each to find the long ones
_SHOWN = 64  # characters of a key that a message repeats

_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, Raw]])
_LIST = msgspec.json.Decoder(list[Raw])


def refuse_keys_given_twice(body: bytes, members: Iterable[Raw]) -> None:
    """Raises ``BadRequest`` for an object, at any depth of ``body``, that has a key twice.

    ``body`` is a valid JSON object, and ``members`` are the values of those of its members that are known.
    """
    rest = body
    if len(rest) > _SMALL:
        rest = _without_long_values(body, members)
    if len(rest) > _SMALL:  # perhaps by members that are not known
        rest = _without_long_values(rest, _children(rest, (0, len(rest))))
    if len(rest) <= _SMALL and _as_many_colons_as_keys(rest):
        return
    outermost, anywhere = _twice(rest)
    if outermost is not None:
        raise BadRequest(f"'{outermost}' is given more than once; it must be given once.", param=outermost)
    if anywhere is not None:
        field = _holder(body)
        problem = f"an object in '{field}' has the key '{anywhere}' more than once"
        raise BadRequest(f"The request body is ambiguous: {problem}; it must have it once.", param=field)


def _as_many_colons_as_keys(body: bytes) -> bool:
    """Whether ``body`` surely has no key twice."""
    if b"\\u003" in body:  # an escaped colon, perhaps, which is encoded as a plain one
        return False
    try:
        return _encode(_decode(body)).count(b":") == body.count(b":")
    except (msgspec.MsgspecError, OverflowError, RecursionError):  # such as a number that no double holds
        return False


# --- Large bodies -------------------------------------------------------------------------------


def _without_long_values(body: bytes, members: Iterable[Raw]) -> bytes:
    """``body`` with 0 in place of long values, in ``members``, that hold no object."""
    place_of = places_in(body)
    pieces: list[bytes] = []
    done = 0
    for start, end in sorted(_plain(body, members, place_of, _DEPTH)):
        pieces += (body[done:start], b"0")
        done = end
    return b"".join((*pieces, body[done:]))


def _plain(body: bytes, values: Iterable[Raw], place_of: Callable[[Raw], Span], depth: int) -> Iterator[Span]:
    """Where the long values stand that hold no object: those of ``values``, or in them."""
    for value in values:
        if len(value) > _LONG:
            start, end = place_of(value)
            if body.startswith(b'"', start) or body.find(b"{", start, end) < 0:
                yield start, end
            elif depth:
                yield from _plain(body, _children(body, (start, end)), place_of, depth - 1)


def _children(body: bytes, place: Span) -> Iterable[Raw]:
    """The values in the list or object at ``place``; none where too many would have to be built."""
    start, end = place
    most = (end - start) // _SPARSE
    if body.count(b":", start, end) > most:
        return ()
    data = memoryview(body)[start:end]
    try:
        if body.startswith(b"[", start):
            return [value for item in _OBJECTS.decode(data) for value in item.values()]
        return _OBJECT.decode(data).values()
    except msgspec.ValidationError:  # a list, and not all of its items are objects
        return _LIST.decode(data) if body.count(b",", start, end) <= most else ()


# --- Every pair ---------------------------------------------------------------------------------


def _twice(data: bytes) -> tuple[str | None, str | None]:
    """A key that the outermost object has twice, and the first one that any object has twice."""
    found: list[str] = []

    def look(pairs: Sequence[tuple[str, object]]) -> str | None:
        # What is returned takes the object's place, so nothing that was looked at is kept.
        if len(dict(pairs)) == len(pairs):
            return None
        found.append(_first_twice(pairs))
        return found[-1]

    try:
        outermost = json.loads(data.decode(), object_pairs_hook=look, strict=False)
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error
    except ValueError as error:  # msgspec found the JSON valid, so it is Python's limit of digits
        raise BadRequest("The request body holds a number with too many digits.") from error
    return outermost if isinstance(outermost, str) else None, found[0] if found else None


def _first_twice(pairs: Sequence[tuple[str, object]]) -> str:
    counts = Counter(key for key, _ in pairs)
    return next(key for key, count in counts.items() if count > 1)[:_SHOWN]


def _holder(body: bytes) -> str:
    """The member of ``body``, or the item of it, that holds an object with a key twice: ``messages[2]``."""
    for name, member in _OBJECT.decode(body).items():
        if _twice(bytes(member))[1] is None:
            continue
        items = _LIST.decode(member) if bytes(memoryview(member)[:1]) == b"[" else []
        return next(
            (f"{name}[{i}]" for i, item in enumerate(items) if _twice(bytes(item))[1] is not None), name
        )
    raise AssertionError("no member holds one")

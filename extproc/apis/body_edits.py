"""Minimal edits of a body: members set where they stand, every other byte as the client wrote it.

A body is never re-encoded. So tool schemas keep their key order, numbers keep their digits, and
whatever an API adds tomorrow reaches the provider untouched.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from extproc.vocabulary import ChatRequest, Span

_EMPTY = re.compile(rb"[ \t\r\n]*\}")  # what follows the opening brace of an empty object


class Edit(msgspec.Struct, frozen=True):
    """Sets one member, by its path (``model``, ``reasoning.effort``), to what ``value`` is as JSON.

    The path must be one that parsing the API looks for, or an edit could give a member twice.
    """

    path: str
    value: object


def edit(body: bytes, request: ChatRequest, edits: Iterable[Edit]) -> bytes:
    """``body``, which ``request`` was parsed from, with ``edits`` made and no other byte changed.

    A member that is given gets another value, in its place; one that is not given is inserted right
    after the opening brace of its object; an object that is not given, or null, is set whole. The
    very same object comes back when there is nothing to change.

    Raises:
        ValueError: two edits concern the same bytes.
    """
    changes = sorted(_changes(body, request.spans, edits))
    if not changes:
        return body
    pieces: list[bytes] = []
    done = 0
    for start, end, replacement in changes:
        if start < done:
            raise ValueError("two edits concern the same bytes")
        pieces += (body[done:start], replacement)
        done = end
    return b"".join((*pieces, body[done:]))


def _changes(
    body: bytes, spans: Mapping[str, Span], edits: Iterable[Edit]
) -> Iterator[tuple[int, int, bytes]]:
    """What to put in place of which bytes: (start, end, replacement)."""
    inserted: dict[int, list[bytes]] = {}  # members by the place right after an opening brace
    for change in _with_whole_objects(body, spans, edits):
        value = msgspec.json.encode(change.value)
        if span := spans.get(change.path):
            if body[slice(*span)] != value:
                yield (*span, value)
            continue
        parent, _, name = change.path.rpartition(".")
        place = (spans[parent][0] if parent else body.index(b"{")) + 1
        inserted.setdefault(place, []).append(b'"%b":%b' % (name.encode(), value))
    for place, members in inserted.items():
        comma = b"" if _EMPTY.match(body, place) else b","
        yield place, place, b",".join(members) + comma


def _with_whole_objects(body: bytes, spans: Mapping[str, Span], edits: Iterable[Edit]) -> Iterator[Edit]:
    """The edits, those inside an object that is not given (or null) made one of the whole object."""
    missing: dict[str, dict[str, object]] = {}
    for change in edits:
        parent, _, name = change.path.rpartition(".")
        if not parent or _is_object(body, spans.get(parent)):
            yield change
        else:
            missing.setdefault(parent, {})[name] = change.value
    for parent, members in missing.items():
        yield Edit(parent, members)


def _is_object(body: bytes, span: Span | None) -> bool:
    return span is not None and body.startswith(b"{", span[0])


# --- What the APIs' own edits are made of -------------------------------------------------------


def given(body: bytes, request: ChatRequest, path: str) -> object:
    """The value of a member that parsing looks for, or None when it is absent or null."""
    span = request.spans.get(path)
    return None if span is None else msgspec.json.decode(body[slice(*span)])


def capped(body: bytes, request: ChatRequest, names: Sequence[str], limit: int) -> list[Edit]:
    """Lowers to ``limit`` whichever of ``names`` is given and higher, or sets the first if none is given."""
    limits = {name: value for name in names if (value := given(body, request, name)) is not None}
    if not limits:
        return [Edit(names[0], limit)]
    return [Edit(n, limit) for n, value in limits.items() if isinstance(value, int | float) and value > limit]

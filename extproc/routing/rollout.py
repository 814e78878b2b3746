"""Decides whether a decision is obeyed or only observed, by the mode and the rollout share.

A key (a user, a conversation, a request) has one fixed place in [0, 1) on each route: the first 8
bytes of BLAKE2b over the route's name, a zero byte and the key, read as a fraction. A key is in
when its place is below the share. So all processes agree, also after a restart. A key that is in at 10 %
is also in at 20 %. Its places on two routes are independent.
"""

from hashlib import blake2b

import msgspec

from extproc.vocabulary import Mode, Question

REQUEST_ID = "x-request-id"  # Envoy's own: a client's is removed


class Rollout(msgspec.Struct, frozen=True):
    """How far the decisions of one route are obeyed; the rest are observed."""

    mode: Mode = Mode.ACTIVE
    share: float = 1.0  # of the keys, [0, 1]


class Key(msgspec.Struct, frozen=True):
    """What decides whether a request is in."""

    source: str  # a header's name, ``conversation`` or ``request``; empty: there is none
    value: str


_NO_KEY = Key("", "")


def place(key: str, route: str) -> float:
    """Where ``key`` stands on ``route``: uniform over [0, 1), and always the same."""
    digest = blake2b(f"{route}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # a double holds 53 bits, so 1.0 is never reached


def mode_of(rollout: Rollout, route: str, key: str) -> Mode:
    """The mode of a decision for ``route`` (empty: no route) of a request with ``key``.

    A request without a key is in only when the share is 1.
    """
    if rollout.mode is Mode.ACTIVE and (
        rollout.share >= 1.0 or (key != "" and place(key, route) < rollout.share)
    ):
        return Mode.ACTIVE
    return Mode.OBSERVE


def key_of(question: Question, header: str) -> Key:
    """The key of a request: the trusted ``header``, else its conversation, else its request id.

    ``header`` is in lower case; empty: the registry names none.
    """
    headers = question.head.headers
    if header and headers.get(header):
        return Key(header, headers[header])
    if question.conversation_id:
        return Key("conversation", question.conversation_id)
    request_id = headers.get(REQUEST_ID)
    return Key("request", request_id) if request_id else _NO_KEY

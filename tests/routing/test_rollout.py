"""Who is in: sticky, monotone, and as many as were asked for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.rollout import Key, Rollout, key_of, mode_of, place
from extproc.vocabulary import Api, ChatRequest, Mode, Question, RequestHead

KEYS = st.text(min_size=1)
SHARES = st.floats(0.0, 1.0)


def is_in(key: str, share: float, route: str = "code") -> bool:
    return mode_of(Rollout(share=share), route, key) is Mode.ACTIVE


@given(KEYS, SHARES, SHARES)
def test_who_is_in_at_a_share_is_in_at_every_larger_one(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_in(key, small) <= is_in(key, large)


@given(KEYS)
def test_all_are_in_at_the_whole_and_none_at_nothing(key: str) -> None:
    assert is_in(key, 1.0)
    assert not is_in(key, 0.0)
    assert 0.0 <= place(key, "code") < 1.0


def test_a_place_is_the_same_in_every_process_and_release() -> None:
    # Should this fail, a release would move users from one side to the other.
    assert place("alice", "code") == 0.07835612031858208


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_many_keys_is_the_one_asked_for(share: float) -> None:
    keys = 20_000
    inside = sum(is_in(f"user-{number}", share) for number in range(keys))
    assert inside / keys == pytest.approx(share, abs=4 * (share * (1 - share) / keys) ** 0.5)


def test_keys_are_spread_over_the_whole_range() -> None:
    places = sorted(place(f"user-{number}", "code") for number in range(1000))
    assert max(after - before for before, after in pairwise([0.0, *places, 1.0])) < 0.02


def test_who_is_in_on_one_route_says_nothing_of_another() -> None:
    keys = [f"user-{number}" for number in range(4000)]
    both = sum(is_in(key, 0.5, "code") and is_in(key, 0.5, "chat") for key in keys)
    assert both / len(keys) == pytest.approx(0.25, abs=0.04)


def test_a_route_and_a_key_are_not_mistaken_for_another_pair() -> None:
    assert place("b", "a") != place("", "ab")
    assert place("bc", "a") != place("c", "ab")


def test_observing_obeys_nobody_and_a_request_without_a_key_is_in_only_with_all() -> None:
    assert mode_of(Rollout(Mode.OBSERVE), "code", "alice") is Mode.OBSERVE
    assert mode_of(Rollout(share=0.999999), "code", "") is Mode.OBSERVE
    assert mode_of(Rollout(), "code", "") is Mode.ACTIVE


@pytest.mark.parametrize(
    ("headers", "conversation", "key"),
    [
        ({"x-user": "alice", "x-request-id": "r"}, "c", Key("x-user", "alice")),
        ({"x-user": "", "x-request-id": "r"}, "c", Key("conversation", "c")),
        ({"x-request-id": "r"}, "c", Key("conversation", "c")),
        ({"x-request-id": "r"}, "", Key("request", "r")),
        ({}, "", Key("", "")),
    ],
)
def test_the_key_is_the_header_else_the_conversation_else_the_request(
    headers: dict[str, str], conversation: str, key: Key
) -> None:
    assert key_of(question(headers, conversation), "x-user") == key


def test_a_header_that_the_registry_does_not_name_is_no_key() -> None:
    assert key_of(question({"x-user": "alice", "x-request-id": "r"}, ""), "").value == "r"


def question(headers: dict[str, str], conversation: str) -> Question:
    request = ChatRequest(api=Api.OPENAI_CHAT, model="auto", spans={}, user_text="hi", body_bytes=2)
    return Question(request, RequestHead("POST", "/v1/chat/completions", headers), conversation)

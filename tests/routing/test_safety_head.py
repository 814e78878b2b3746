"""What the safety head reads of a request, and what follows when it finds something or cannot look."""

import msgspec
import numpy as np
import pytest

from extproc.errors import NotCleared, Overloaded, PolicyFailed, Unsafe
from extproc.routing.clearance import ClearancePolicy
from extproc.routing.pipeline import Pipeline
from extproc.routing.safety_head import PIECE, PIECES, SafetyHead, pieces_of
from extproc.routing.safety_policy import SafetyClass, SafetyPolicy
from extproc.routing.snapshot import Snapshot
from extproc.routing.trained_heads import Linear, Standard, Trained
from extproc.vocabulary import (
    Api,
    ChatRequest,
    Decision,
    Embedding,
    Question,
    Reason,
    RequestHead,
    SafetyAction,
    Scope,
    Stage,
)
from tests.routing.test_pipeline import AXES, snapshot

# Texts about coding are ordinary, small talk is `chatty`, and the rest is `odd`.
HEAD = SafetyHead(
    Trained(
        Standard(np.zeros(6, np.float32), np.ones(6, np.float32), 2),
        linear=Linear(
            np.vstack([8 * np.eye(3), np.zeros((3, 3))]).astype(np.float32), np.zeros(3, np.float32)
        ),
    ),
    ("chatty", "odd"),
    (0.5, 0.5),
)


class Words:
    """An embedder that looks for a word in a text, and counts what it embeds."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        self.asked.append(text)
        axis = next((place for place, word in enumerate(("code", "chat", "odd")) if word in text), 0)
        return Embedding(AXES[axis], tokens=3, queue_s=0.0, infer_s=0.0, inner=AXES[axis])


def question(*turns: str, model: str = "auto") -> Question:
    passages = tuple((turn,) for turn in turns)
    request = ChatRequest(Api.OPENAI_CHAT, model, {}, turns[-1], 10, user_turns=passages)
    return Question(request, RequestHead("POST", "/v1/chat/completions", {}))


def current(chatty: SafetyAction, *cleared: str) -> Snapshot:
    classes = (
        SafetyClass("chatty", frozenset({"chatty"}), chatty, "chatty"),
        SafetyClass("odd", frozenset({"odd"}), SafetyAction.ALLOW, "odd"),
    )
    policy = SafetyPolicy((), Scope.ALL_USER, head=HEAD, of_head=classes)
    clearance = ClearancePolicy({model: frozenset({"chatty"}) for model in cleared})
    return msgspec.structs.replace(snapshot(), safety=policy, clearance=clearance)


async def decide(asked: Question, current: Snapshot, embedder: object = None) -> Decision:
    return await Pipeline(embedder or Words(), lambda _: current, clock=lambda: 0.0).decide(asked)  # type: ignore[arg-type]


async def test_a_refused_class_is_refused_even_of_a_pinned_request() -> None:
    for model in ("auto", "coder"):
        with pytest.raises(Unsafe) as refused:
            await decide(question("chat", model=model), current(SafetyAction.REFUSE))
        assert (refused.value.rule, refused.value.found) == ("chatty", ("chatty:1",))


async def test_a_guarded_class_reaches_only_cleared_models() -> None:
    assert (await decide(question("chat"), current(SafetyAction.GUARD, "small"))).labels == ("chatty",)
    with pytest.raises(NotCleared):
        await decide(question("chat"), current(SafetyAction.GUARD, "large"))


async def test_what_is_only_recorded_has_its_scores_on_the_decision() -> None:
    decision = await decide(question("odd"), current(SafetyAction.REFUSE))
    assert (decision.safety, decision.found) == ("allow", ("odd:1",))
    scores = dict(each.split(":") for each in decision.safety_scores)
    assert float(scores["odd"]) > 0.9 > 0.1 > float(scores["chatty"])


async def test_a_text_that_the_router_reads_too_is_embedded_once() -> None:
    words = Words()
    decision = await decide(question("code"), current(SafetyAction.REFUSE), words)
    assert (decision.stage, words.asked) == (Stage.EMBEDDING, ["code"])


async def test_an_earlier_turn_counts() -> None:
    with pytest.raises(Unsafe):
        await decide(question("chat", "code"), current(SafetyAction.REFUSE))


async def test_a_pinned_request_is_embedded_where_the_head_is_on() -> None:
    words = Words()
    decision = await decide(question("code", model="coder"), current(SafetyAction.REFUSE), words)
    assert (decision.reason, words.asked) == (Reason.PINNED, ["code"])


class Busy:
    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        raise Overloaded("busy")


class Slow:
    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        raise TimeoutError


class WithoutInner:
    async def embed(self, text: str, within_s: float | None = None) -> Embedding:
        return Embedding(AXES[0], tokens=1, queue_s=0.0, infer_s=0.0)


@pytest.mark.parametrize("embedder", [Busy(), Slow(), WithoutInner()])
async def test_what_could_not_be_checked_is_not_decided(embedder: object) -> None:
    with pytest.raises(PolicyFailed):
        await decide(question("code"), current(SafetyAction.REFUSE), embedder)


async def test_a_request_without_text_has_nothing_to_read() -> None:
    assert (await decide(question(" "), current(SafetyAction.REFUSE))).reason is Reason.NO_TEXT


def test_the_latest_turns_are_read_first_each_at_both_ends() -> None:
    long = "a" * PIECE + "b" * PIECE + "c" * PIECE
    assert pieces_of(question("early", "middle", long).request) == (
        "a" * PIECE,
        "c" * PIECE,
        "middle",
        "early",
    )
    assert len(pieces_of(question(*"abcdefgh").request)) == PIECES
    assert pieces_of(question("same", "same").request) == ("same",)
    plain = ChatRequest(Api.OPENAI_CHAT, "auto", {}, "only this", 10)
    assert pieces_of(plain) == ("only this",)

"""Texts are decided apart from traffic as they would be in it, and a decision that fails is no figure."""

import msgspec
import numpy as np
import pytest

from extproc.errors import OperatorError
from extproc.routing import rules
from extproc.routing.calibration import Calibration
from extproc.routing.embedding_scorer import Meaning
from extproc.routing.model_choice import Target
from extproc.routing.rehearsal import plain_question, rehearse
from extproc.routing.scorers import Centroids
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.routing.trained_heads import OnEmbedding
from extproc.vocabulary import Api, Embedding

AXES = np.eye(3, dtype=np.float32)
MODEL = Target("small", "small", "model-small", frozenset({Api.OPENAI_CHAT}))
SNAPSHOT = Snapshot(
    version="v1",
    targets={"small": MODEL},
    routes={name: RoutePolicy((MODEL,), margin_floor=0.1, similarity_floor=0.3) for name in ("code", "chat")},
    defaults={Api.OPENAI_CHAT: "small"},
    deny_rules=(rules.CompiledRule("secrets", (rules.keyword_in_text(["password"]),), deny="No."),),
    route_rules=(),
    meaning=Meaning(
        routes=("code", "chat"),
        head=OnEmbedding(Centroids(AXES[:2])),
        calibration=Calibration(0.1),
        examples=AXES[:2],
        starts=np.array([0, 1]),
        texts=("fix", "hi"),
    ),
    budget_s=1e-9,  # which no decision could keep: a rehearsal has another
)
EMBEDDINGS = {
    text: Embedding(vector, tokens=1, queue_s=0.0, infer_s=0.0)
    for text, vector in {"fix": AXES[0], "hi": AXES[1], "rain": AXES[2]}.items()
}


async def test_each_text_has_its_decision_in_order_and_a_refused_one_none() -> None:
    decisions = await rehearse(SNAPSHOT, ["hi", "rain", "my password", "fix", "hi"], EMBEDDINGS)
    assert [decision and decision.route for decision in decisions] == ["chat", "", None, "code", "chat"]


async def test_a_decision_that_fails_fails_the_rehearsal(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OperatorError, match="no decision for text 2: internal_error"):
        await rehearse(SNAPSHOT, ["hi", "unknown"], EMBEDDINGS)
    assert "a stage of the pipeline failed" in caplog.text


async def test_a_registry_that_speaks_another_api_alone_is_asked_by_that() -> None:
    only = msgspec.structs.replace(SNAPSHOT, defaults={Api.ANTHROPIC_MESSAGES: "small"})
    decisions = await rehearse(only, ["fix"], EMBEDDINGS)
    assert [decision and decision.route for decision in decisions] == ["code"]


async def test_no_text_is_no_decision() -> None:
    assert await rehearse(msgspec.structs.replace(SNAPSHOT, meaning=None), [], {}) == []


def test_a_plain_question_leaves_the_choice_to_the_router() -> None:
    request = plain_question("é").request
    assert (request.model, request.user_text, request.body_bytes) == ("auto", "é", 2)

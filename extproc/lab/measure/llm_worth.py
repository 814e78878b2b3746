"""What asking an LLM in doubt adds to the decisions of labelled rows, and what it costs.

The pipeline that serves says which rows are in doubt and what is made of the LLM's answers. Only the call
is another: it goes to any server, and budgets do not count.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from extproc.errors import OperatorError
from extproc.lab.measure.classification_metrics import Floats, Labels, Truths
from extproc.lab.measure.intervals import Figure, bootstrap, mcnemar, mean_of, share
from extproc.lab.measure.llm_endpoint import AT_ONCE, Heard, LlmServer, ask_all
from extproc.lab.measure.replay import CandidateRegistry, Progress, ReplayedDecisions, decide_all
from extproc.routing.llm_question import DOUBTS, LlmPolicy, LlmQuestion
from extproc.routing.model_choice import Price
from extproc.vocabulary import LlmOpinion, LlmResult

_PERCENTILES = (50, 90, 95, 99)


class DoubtAsker(msgspec.Struct, frozen=True):
    """Who is asked about rows in doubt."""

    server: LlmServer
    progress: Progress
    model: str = ""  # as the server calls it; empty: as the registry says


class DecidedWithLlm(msgspec.Struct, frozen=True):
    """Rows that were decided with the LLM."""

    route: Labels  # of each row: decided with the LLM's answers
    heard: Mapping[str, Heard]  # by the text of a row in doubt
    asked: DoubtAsker
    policy: LlmPolicy


class DoubtGroup(msgspec.Struct, frozen=True):
    """Some rows, decided without the LLM and with it. Out of scope, abstaining is right."""

    name: str
    rows: int
    before: Figure  # accuracy without the LLM
    nearest: Figure  # accuracy if the most probable route were followed in doubt, with no LLM
    after: Figure  # accuracy with the LLM
    gain: Figure  # ``after`` minus ``before``, on the same rows
    mended: int  # rows that were wrong and are right
    broken: int  # rows that were right and are wrong


class LlmWorth(msgspec.Struct, frozen=True):
    """What the LLM adds, and what it costs."""

    url: str
    model: str  # of the registry: its price is used
    upstream_model: str  # as the server was asked for it
    deadline_ms: float
    in_doubt: int  # rows
    uncleared: int  # rows in doubt that may not be shown to the model, by `clearance`
    calls: int  # an equal text is asked about once
    results: Mapping[str, int]  # calls by how they ended
    problems: Mapping[str, int]  # failed calls by what failed
    groups: Sequence[DoubtGroup]
    p_value: float  # that the decisions are right equally often with and without it
    input_tokens: int  # that the server reported
    output_tokens: int
    without_usage: int  # calls whose tokens are not known
    dollars: float | None  # None: the model has no `price`, or the server reports no usage
    latency_ms: Mapping[str, float]  # by percentile of all calls; empty: there were none
    at_once: int  # calls in flight, which share the server


def required_policy(candidate: CandidateRegistry) -> LlmPolicy:
    """How the registry asks an LLM. Raises ``OperatorError`` if it does not."""
    policy = candidate.snapshot.llm
    if policy is None:
        raise OperatorError(
            f"--llm: {candidate.loaded.path} has no `llm` (expected `llm: {{model: NAME}}`, "
            "which says what is asked and for how long)"
        )
    return policy


def consult(
    candidate: CandidateRegistry, texts: Sequence[str], decided: ReplayedDecisions, asker: DoubtAsker
) -> DecidedWithLlm:
    """Ask about the rows that ``decided`` leaves in doubt, and decide these once more.

    Raises ``EncoderFailed``, and ``OperatorError`` if the server cannot be used.
    """
    policy = required_policy(candidate)
    if asker.model:
        policy = msgspec.structs.replace(policy, upstream_model=asker.model)
    snapshot = msgspec.structs.replace(candidate.snapshot, llm=policy)
    doubtful = np.flatnonzero(_in_doubt(decided))
    about = list(dict.fromkeys(texts[i] for i in doubtful.tolist()))
    route = decided.route.copy()
    if not about:
        return DecidedWithLlm(route, {}, asker, policy)
    open_questions = _Answers({})
    decide_all(snapshot, candidate.encoder, about, decided.routes, open_questions)
    questions = list(open_questions.asked.values())
    heard = ask_all(asker.server, questions, asker.progress)
    answers = {question.text: each for question, each in zip(questions, heard, strict=True)}
    known = _Answers({text: each.opinion for text, each in answers.items()})
    after = decide_all(snapshot, candidate.encoder, about, decided.routes, known)
    places = dict(zip(about, after.route.tolist(), strict=True))
    route[doubtful] = [places[texts[i]] for i in doubtful.tolist()]
    return DecidedWithLlm(route, answers, asker, policy)


def worth_of(
    truth: Labels, texts: Sequence[str], decided: ReplayedDecisions, consulted: DecidedWithLlm
) -> LlmWorth:
    """The figures of rows that were decided without the LLM (``decided``) and with it."""
    heard = list(consulted.heard.values())
    doubt = _in_doubt(decided)
    tokens = [(each.opinion.input_tokens, each.opinion.output_tokens) for each in heard]
    known = [(read, written) for read, written in tokens if read is not None and written is not None]
    read, written = sum(pair[0] for pair in known), sum(pair[1] for pair in known)
    groups = _groups(truth, decided, consulted.route, doubt)
    return LlmWorth(
        url=consulted.asked.server.url,
        model=consulted.policy.model,
        upstream_model=consulted.policy.upstream_model,
        deadline_ms=consulted.policy.deadline_s * 1000,
        in_doubt=int(doubt.sum()),
        uncleared=sum(texts[i] not in consulted.heard for i in np.flatnonzero(doubt).tolist()),
        calls=len(heard),
        results=Counter(str(each.opinion.result) for each in heard),
        problems=Counter(each.problem for each in heard if each.opinion.result is LlmResult.FAILED),
        groups=groups,
        p_value=mcnemar(groups[0].mended, groups[0].broken),
        input_tokens=read,
        output_tokens=written,
        without_usage=len(heard) - len(known),
        dollars=_dollars(consulted.policy.price, read, written) if known or not heard else None,
        latency_ms=_percentiles(np.array([each.seconds for each in heard]) * 1000),
        at_once=AT_ONCE,
    )


class _Answers:
    """A ``DoubtResolver`` that knows its answers, and notes the questions that it has none for."""

    def __init__(self, known: Mapping[str, LlmOpinion]) -> None:
        self._known = known
        self.asked: dict[str, LlmQuestion] = {}

    def note_request(self, policy: LlmPolicy) -> None:
        """A measurement has no budget."""

    def begin(self, question: LlmQuestion, request_id: str) -> LlmOpinion:
        known = self._known.get(question.text)
        if known is None:
            self.asked[question.text] = question
            return LlmOpinion(result=LlmResult.NONE, model=question.policy.model, doubt=question.doubt)
        return known


def _in_doubt(decided: ReplayedDecisions) -> Truths:
    return np.array([each is not None and each.reason in DOUBTS for each in decided.decisions], bool)


def _groups(truth: Labels, decided: ReplayedDecisions, after: Labels, doubt: Truths) -> list[DoubtGroup]:
    reasons = np.array([str(each.reason) if each else "" for each in decided.decisions])
    chosen = {
        "all rows": np.ones(len(truth), bool),
        "in doubt": doubt,
        "in doubt, in scope": doubt & (truth >= 0),
        "in doubt, out of scope": doubt & (truth < 0),
        **{f"reason {reason}": doubt & (reasons == reason) for reason in sorted(set(reasons[doubt]))},
    }
    nearest = np.where(doubt, decided.best, decided.route)
    before, unfloored, with_llm = (decisions == truth for decisions in (decided.route, nearest, after))
    return [_group(name, before[rows], unfloored[rows], with_llm[rows]) for name, rows in chosen.items()]


def _group(name: str, before: Truths, nearest: Truths, after: Truths) -> DoubtGroup:
    gained = after.astype(np.float64) - before
    gain = float(gained.mean()) if len(gained) else float("nan")
    return DoubtGroup(
        name=name,
        rows=len(before),
        before=share(before),
        nearest=share(nearest),
        after=share(after),
        gain=Figure.of(gain, bootstrap(mean_of(gained), len(gained))),
        mended=int((after & ~before).sum()),
        broken=int((before & ~after).sum()),
    )


def _dollars(price: Price | None, read: int, written: int) -> float | None:
    return None if price is None else price.input * read + price.output * written


def _percentiles(milliseconds: Floats) -> dict[str, float]:
    if not len(milliseconds):
        return {}
    found = {f"p{at}": float(np.percentile(milliseconds, at)) for at in _PERCENTILES}
    return {**found, "max": float(milliseconds.max())}

"""The verdict of a gate."""

import msgspec
import pytest

from extproc.apis.model_answer import ModelAnswer, ToolCall
from extproc.gate.judge import Judge, Verdict
from extproc.gate.judged_request import JudgedRequest
from extproc.vocabulary import Api

ASKED = JudgedRequest(api=Api.OPENAI_CHAT, text="Where?")


class ByLength(msgspec.Struct, frozen=True):
    """Longer answers are better, and agreement is best."""

    def probability(self, asked: JudgedRequest, answer: ModelAnswer, second: ModelAnswer | None) -> float:
        if second is not None and second.text == answer.text:
            return 1.0
        return min(1.0, len(answer.text) / 10)


def no_digits(asked: JudgedRequest, answer: ModelAnswer) -> str:
    return "digits" if any(map(str.isdigit, answer.text)) else ""


def no_questions(asked: JudgedRequest, answer: ModelAnswer) -> str:
    return "question" if "?" in answer.text else ""


CHECKS = (("numbers", no_digits), ("manners", no_questions))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("In Bern.", Verdict(True)),
        ("In 1.", Verdict(False, gate="numbers", reason="digits")),
        ("Where is 1?", Verdict(False, gate="numbers", reason="digits")),
        ("Where?", Verdict(False, gate="manners", reason="question")),
    ],
)
def test_the_first_rejection_is_the_verdict(text: str, verdict: Verdict) -> None:
    assert Judge(CHECKS).judge(ASKED, ModelAnswer(text=text)) == verdict


def test_of_a_beginning_only_the_bad_is_known() -> None:
    judge = Judge(CHECKS, ByLength(), 0.5)
    assert judge.judge(ASKED, ModelAnswer(text="In", complete=False)) == Verdict(None)
    assert judge.judge(ASKED, ModelAnswer(text="In?", complete=False)).keep is False


def test_what_failed_is_rejected_whatever_the_checks_are() -> None:
    for judge in (Judge(()), Judge(CHECKS), Judge(CHECKS, ByLength(), 0.0)):
        failed = judge.judge(ASKED, ModelAnswer(text="In Bern.", complete=False, failed=True))
        assert failed == Verdict(False, gate="finish", reason="failed")


def test_a_score_is_held_against_the_threshold() -> None:
    judge = Judge(CHECKS, ByLength(), 0.5)
    assert judge.judge(ASKED, ModelAnswer(text="Bern.")) == Verdict(True, 0.5)
    assert judge.judge(ASKED, ModelAnswer(text="Hm.")) == Verdict(False, 0.3, "score", "low_score")


def test_a_second_answer_may_speak_for_the_first() -> None:
    judge = Judge((), ByLength(), 0.5, 0.05)
    assert judge.judge(ASKED, ModelAnswer(text="4"), ModelAnswer(text="4")) == Verdict(True, 1.0)
    assert judge.judge(ASKED, ModelAnswer(text="4"), ModelAnswer(text="5")) == Verdict(True, 0.1)
    assert judge.judge(ASKED, ModelAnswer(text="4")).keep is False


def test_a_second_answer_is_left_out_where_the_scorer_knows_none() -> None:
    assert Judge((), ByLength(), 0.5).judge(ASKED, ModelAnswer(text="4"), ModelAnswer(text="4")).keep is False


ANSWER, SAME, OTHER = (
    ModelAnswer(text="It is 42"),
    ModelAnswer(text="42, surely"),
    ModelAnswer(text="It is 43"),
)
AGREEING = Judge(CHECKS[1:], min_agreement=0.5)


def test_an_answer_that_another_one_contradicts_is_rejected() -> None:
    assert AGREEING.judge(ASKED, ANSWER, SAME) == Verdict(True)
    assert AGREEING.judge(ASKED, ANSWER, OTHER) == Verdict(False, gate="agreement", reason="disagrees")
    assert AGREEING.judge(ASKED, ANSWER) == Verdict(True)
    assert Judge(()).judge(ASKED, ANSWER, OTHER) == Verdict(True)


def test_of_answers_that_only_call_tools_the_calls_are_compared() -> None:
    def calling(arguments: str) -> ModelAnswer:
        return ModelAnswer(tool_calls=(ToolCall("find", arguments),))

    assert AGREEING.judge(ASKED, calling('{"id": 1}'), calling('{"id": 1}')).keep
    assert not AGREEING.judge(ASKED, calling('{"id": 1}'), calling('{"id": 2}')).keep


def test_a_second_answer_is_wanted_only_where_it_could_change_the_verdict() -> None:
    rejected, doubted = Verdict(False, gate="manners"), Verdict(False, 0.1, "score", "low_score")
    paired = Judge((), ByLength(), 0.5, threshold_paired=0.5)
    judges = (Judge(()), Judge((), ByLength(), 0.5), AGREEING, paired)
    assert [judge.needs_second_answer(Verdict(True)) for judge in judges] == [False, False, True, True]
    assert [judge.needs_second_answer(doubted) for judge in judges] == [False, False, False, True]
    assert not any(
        judge.needs_second_answer(verdict) for judge in judges for verdict in (rejected, Verdict(None))
    )

"""What of an answer is measured, and when two answers agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.answer_scoring import NAMES, agreement, features, final_answer, paired, sums
from extproc.gate.judged_request import JudgedRequest
from extproc.vocabulary import Api

ASKED = JudgedRequest(
    api=Api.OPENAI_CHAT, text="Ann has 12 apples and eats 3 a day. How many are left after 2 days?"
)


def named(answer: ModelAnswer) -> dict[str, float]:
    return dict(zip(NAMES, features(ASKED, answer).tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ('{"reasoning": "3 * 2 = 6", "answer": "6"}', "6"),
        ('```json\n{"answer": 1,200.50}\n```', "1200.5"),
        ("**Final Answer:** $6.00 a day, for 2 days", "6"),
        ("3 * 2 = 6\n#### 6", "6"),
        (r"So it is \boxed{42}, as 6 * 7 shows.", "42"),
        ("The answer is (B) Paris.", "b paris"),
        ("There were 12, and now there are 6 left.", "6"),
        ("It takes 1/2 of it.", "1/2"),
        ("None at all.", ""),
        ("There were 12 of them. " + "Nobody counted. " * 40, ""),
        ("Answer: 12. " + "Nobody counted. " * 40, "12"),
        ("", ""),
    ],
)
def test_an_answer_ends_on_what_it_names_or_on_its_last_number(text: str, final: str) -> None:
    assert final_answer(text) == final


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("It is 6.", "12 - 6 = 6", 1.0),
        ("It is 6.", "It is 7.", 0.0),
        ("It is 1,000.0", "1000", 1.0),
        ("red green", "green red", 1.0),
        ("red green", "green blue", 1 / 3),
        ("red", "6", 0.0),
        ("", "", 0.0),
    ],
)
def test_answers_agree_by_what_they_end_on_else_by_their_words(one: str, other: str, expected: float) -> None:
    assert agreement(one, other) == pytest.approx(expected)
    assert agreement(other, one) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 * 20 = 60 and 15 + 25 = 41", (1, 1)),
        ("2 + 3 * 4 = 14, 2+3×4=20", (1, 1)),
        ("40 / 3 = 13.33; 40 ÷ 3 = 13.34", (1, 1)),
        ("$1,200 - $200 = $1,000", (1, 0)),
        ("5 − 7 = -2", (1, 0)),
        ("1 / 0 = 3", (0, 0)),
        ("x + 1 = 2, 2^3 + 1 = 9, (1 + 2) * 3 = 9", (0, 0)),
        ("10 + 20 = 30%", (0, 0)),
    ],
)
def test_equations_of_numbers_are_worked_out(text: str, found: tuple[int, int]) -> None:
    assert sums(text) == found


def test_what_an_answer_makes_of_the_numbers_of_the_question_is_seen() -> None:
    good = named(ModelAnswer(text="She eats 3 * 2 = 6 apples, so 12 - 6 = 6 are left.\n#### 6"))
    assert good["numbers_used"] == 1.0
    assert good["sums_right"] == pytest.approx(np.log(3))
    assert (good["sums_wrong"], good["final_worked_out"], good["final_known"]) == (0.0, 1.0, 0.0)
    bad = named(ModelAnswer(text="12 / 5 = 2.5, however maybe 3?"))
    assert (bad["final_known"], bad["final_worked_out"], bad["no_final"]) == (1.0, 0.0, 0.0)
    assert bad["new_fractions"] == pytest.approx(1 / 4)
    assert bad["sums_wrong"] == pytest.approx(np.log(2))
    assert bad["hedges"] == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("text", "size", "once"),
    [
        ("12 - 6 = 6, so 6 are left.", np.log(7), 0.0),
        ("Half of them, 6 in all.", np.log(7), 1.0),
        ("5 - 7 = -2", np.log(3), 1.0),
        ("#### " + "9" * 400, 20.0, 1.0),
        ("The answer is infinity.", 0.0, 0.0),
        ("It takes 1/2 of it.", 0.0, 0.0),
        ("None at all.", 0.0, 0.0),
    ],
)
def test_the_size_of_what_an_answer_ends_on_and_whether_it_came_up_before(
    text: str, size: float, once: float
) -> None:
    found = named(ModelAnswer(text=text))
    assert found["final_size"] == pytest.approx(size)
    assert found["final_once"] == once


def test_the_checks_are_features_too() -> None:
    found = named(
        ModelAnswer(text="Sorry, but I can't help with that.", finish=Finish.LENGTH, mean_logprob=-0.5)
    )
    assert (found["refuses"], found["bad_finish"], found["logprob"], found["no_logprob"]) == (1, 1, -0.5, 0)
    assert named(ModelAnswer(text="6"))["no_logprob"] == 1


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_two_texts_have_finite_features(question: str, text: str) -> None:
    asked = JudgedRequest(api=Api.OPENAI_CHAT, text=question)
    found = paired(asked, ModelAnswer(text=text), ModelAnswer(text=question))
    assert found.shape == (len(NAMES) + 1,)
    assert np.isfinite(found).all()


@given(st.text(alphabet="0123456789.,+-*/= $x", max_size=400))
def test_any_arithmetic_is_worked_out_without_raising(text: str) -> None:
    right, wrong = sums(text)
    assert right >= 0
    assert wrong >= 0
    assert len(features(ASKED, ModelAnswer(text=text))) == len(NAMES)

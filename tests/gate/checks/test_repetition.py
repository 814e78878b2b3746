"""Answers that go round in circles."""

import pytest

from extproc.apis.model_answer import ModelAnswer
from extproc.gate.checks import repetition
from extproc.gate.gate_vocabulary import Asked
from extproc.vocabulary import Api

PROSE = " ".join(f"Sentence number {n} says that {n * n} is the square of {n}." for n in range(40))
LOOP = "Let me think about this again. " * 40


def test_a_loop_repeats_nearly_all_of_its_text() -> None:
    assert repetition.share(LOOP) > 0.9
    assert repetition.share("好的，我再想一想这个问题。" * 60) > 0.9
    assert repetition.share("".join(map(chr, range(0x4E00, 0x4E00 + 600)))) == 0.0


def test_a_loop_after_prose_is_found() -> None:
    assert repetition.share(PROSE + LOOP * 8) > 0.7


def test_of_little_text_nothing_is_said() -> None:
    assert repetition.share("ha" * 100) == 0.0


@pytest.mark.parametrize(("text", "reason"), [(LOOP, "repetition"), (PROSE, "")])
@pytest.mark.parametrize("complete", [True, False])
def test_more_than_the_share_is_rejected(text: str, reason: str, complete: bool) -> None:
    check = repetition.at_most(0.5)
    assert check(Asked(api=Api.OPENAI_CHAT), ModelAnswer(text=text, complete=complete)) == reason

"""The worth of predicted quality on kinds of prompts that were left out, on a table of which it is known."""

import numpy as np
import pytest

from extproc.lab.measure.choice_worth import Table, bar_figures
from extproc.lab.measure.kind_worth import measure_left_out
from extproc.lab.measure.outcome_text import left_out_text

FAILS = np.arange(200) % 4 == 0
EASY = np.arange(200) < 120  # the first kind: predictions are right there, and blind in the second
PREDICTED = np.stack([np.where(EASY & FAILS, 0.2, 0.9), np.full(200, 0.95)], axis=1)
TABLE = Table(
    tuple("x" * (1 + i % 7) for i in range(200)), ("small", "large"), PREDICTED,
    np.stack([~FAILS, np.ones(200)], axis=1).astype(np.float64), np.tile([1.0, 10.0], (200, 1)),
    np.tile([1.0, 10.0], (200, 1)), np.zeros((2, 2), bool),
)  # fmt: skip
KINDS = np.where(EASY, 0, 1)


def test_each_kind_is_measured_by_itself_at_the_advised_bar() -> None:
    found = measure_left_out(TABLE, KINDS, ("chat", "code"), bar_figures(TABLE, 1, 0.5))
    assert [(kind.name, kind.rows) for kind in found.kinds] == [("chat", 120), ("code", 80)]
    easy, blind = found.kinds
    assert easy.kept.value == 1.0
    assert easy.saving.value == pytest.approx(0.9 * 0.75)
    assert blind.kept.value == pytest.approx(0.75)
    assert found.lead.value == pytest.approx(found.served.value - found.length.value)
    text = left_out_text(found, 1.0)
    assert "chat" in text
    assert "(sets)" in text


def test_a_cluster_is_named_by_a_prompt_of_it_and_without_a_bar_no_kind_is_measured() -> None:
    found = measure_left_out(TABLE, KINDS, (), bar_figures(TABLE, 1, 0.5))
    assert found.by == "clusters"
    assert [kind.name for kind in found.kinds] == ["like 'x'", "like 'xx'"]
    assert measure_left_out(TABLE, KINDS, (), None).kinds == []


def test_training_says_that_prompt_length_alone_is_served() -> None:
    text = left_out_text(measure_left_out(TABLE, KINDS, (), None), 0.0)
    assert "prompt length alone is served" in text

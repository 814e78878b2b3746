"""What counting tells of a text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.surface_features import LONGEST, NAMES, surface


def of(text: str, name: str) -> float:
    return float(surface([text])[0, NAMES.index(name)])


def test_counts_are_logarithms_of_what_is_there() -> None:
    text = "If 3 of 12.5 apples are not red, how many are? Two."
    assert of(text, "characters") == np.float32(np.log1p(len(text)))
    assert of(text, "numbers") == np.float32(np.log1p(2))
    assert of(text, "sentences") == np.float32(np.log1p(2))
    assert of(text, "negations") == np.float32(np.log1p(1))
    assert of(text, "decimals") == 1.0
    assert of(text, "questions") == np.float32(np.log1p(1))


def test_only_the_length_tells_of_what_stands_beyond_the_longest_text_read() -> None:
    long, longer = "a" * LONGEST, "a" * LONGEST + " 1 2 3 4 ??"
    differ = surface([long])[0] != surface([longer])[0]
    assert [name for name, other in zip(NAMES, differ, strict=True) if other] == ["characters"]


@given(st.text())
def test_any_text_has_them_all_and_they_are_finite(text: str) -> None:
    found = surface([text])
    assert found.shape == (1, len(NAMES))
    assert np.isfinite(found).all()


def test_no_texts_have_no_rows() -> None:
    assert surface([]).shape == (0, len(NAMES))

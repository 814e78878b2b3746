"""One format for money, one for shares, one for scores, one for times, whatever the size."""

import ast
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import extproc
from extproc.lab.figures.number_formats import (
    count,
    counted,
    dollars,
    milliseconds,
    p_value,
    percent,
    score,
    with_interval,
)
from extproc.lab.measure.intervals import NO_FIGURE, Figure

# Modules that print figures of the laboratory.
PRINTING = [
    *sorted(Path(extproc.__file__).parent.glob("lab/**/*.py")),
    *sorted(Path(extproc.__file__).parent.glob("commands/*.py")),
]
# `.3f`, `+d`, `,`, `.1%`: not widths such as `<14`, and not dates such as `%Y-%m-%d`.
NUMBER_FORMAT = re.compile(r"(?!%)(.*[,.]|.*[bcdeEfFgGnoxX%]$)")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.01654, "$0.0165"),
        (3.9e-05, "$0.000039"),
        (-0.008912, "-$0.00891"),
        (-2.0, "-$2.00"),
        (0.75, "$0.75"),
        (0.5, "$0.50"),
    ],
)
def test_money_has_its_sign_and_no_exponent(value: float | None, written: str) -> None:
    assert dollars(value) == written


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_money_keeps_its_size(value: float) -> None:
    written = dollars(value)
    assert "e" not in written
    assert float(written.removeprefix("$").replace(",", "")) == pytest.approx(value, rel=0.006)


def test_shares_are_percentages_and_scores_are_not() -> None:
    assert (percent(0.324), percent(1.0), percent(-3.55), percent(None)) == (
        "32.4%",
        "100.0%",
        "-355.0%",
        "-",
    )
    assert (score(0.4561), score(None), score(math.nan)) == ("0.456", "-", "-")
    assert (milliseconds(1234.4), milliseconds(None)) == ("1,234", "-")


def test_one_thing_is_not_plural() -> None:
    assert (counted(1, "request"), counted(1234, "request")) == ("1 request", "1,234 requests")


def test_an_interval_has_the_format_of_its_value() -> None:
    figure = Figure(0.5, 0.25, 0.75)
    assert with_interval(figure) == "0.500 [0.250, 0.750]"
    assert with_interval(figure, percent) == "50.0% [25.0%, 75.0%]"
    assert with_interval(NO_FIGURE) == "-"


def test_counts_have_thousands_and_a_small_p_value_has_no_exponent() -> None:
    assert (count(1234), count(None)) == ("1,234", "-")
    assert (p_value(0.0312), p_value(3.9e-12)) == ("p = 0.031", "p < 0.001")


def number_formats(source: str) -> Iterator[tuple[int, str]]:
    """Each format of a number in the f-strings of a module, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
            spec = "".join(
                part.value if isinstance(part, ast.Constant) else "" for part in node.format_spec.values
            )
            if NUMBER_FORMAT.match(spec):
                yield node.lineno, spec


@pytest.mark.parametrize("path", PRINTING, ids=lambda path: path.stem)
def test_no_other_module_formats_a_number(path: Path) -> None:
    if path.stem != "number_formats":
        assert list(number_formats(path.read_text())) == []


def test_formats_of_numbers_are_told_from_widths_and_dates() -> None:
    source = 'f"{a:.3f} {b:,} {c:+d} {d:.{e}%} {f:<14} {g:>8} {h:%Y-%m-%d %H:%M}"'
    assert [spec for _, spec in number_formats(source)] == [".3f", ",", "+d", ".%"]

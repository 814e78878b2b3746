"""Plots as inline SVG: a few shapes and texts, without scripts and dependencies, sharp at any size.

Colours are the CSS classes of ``page.css``, so that the page sets them for light and dark screens.
"""

import html
from collections.abc import Sequence

import msgspec

from extproc.lab.figures.number_formats import count, counted, pixels, score, setting, with_interval

_SIDE = 300  # of the plotted square
_SQUARE_LEFT, _TOP, _SQUARE_RIGHT, _BOTTOM = 46, 10, 14, 40
_CELL = 34
_NUMBERED = 25  # routes; with more, cells are too small for numbers
_ROW = 26
_LEFT, _SCALE, _RIGHT = 142, 180, 52
_WIDE, _HIGH = 300, 84  # of one plot over time
_PAD_LEFT, _PAD_RIGHT, _PAD_TOP, _PAD_BOTTOM = 34, 8, 8, 18


class Line(msgspec.Struct, frozen=True):
    """A named line of points in [0, 1] x [0, 1]."""

    name: str
    points: Sequence[tuple[float, float]]


class Mean(msgspec.Struct, frozen=True):
    """A named mean with its interval; ``value`` is None where there are no samples."""

    name: str
    value: float | None
    low: float
    high: float
    samples: int
    enough: bool  # samples, to be read as a number


class Series(msgspec.Struct, frozen=True):
    """Values over the buckets of the window, with a gap where nothing was measured."""

    name: str
    points: Sequence[tuple[int, float | None]]


def unit_plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    *,
    diagonal: bool = False,
    whiskers: Sequence[tuple[float, float, float]] = (),
    dots: Sequence[tuple[float, float, str]] = (),
    y_top: float = 1.0,
) -> str:
    """Lines over the unit square.

    ``whiskers`` are vertical intervals (x, low, high), ``dots`` marked points (x, y, name).
    ``y_top`` is the largest y drawn.
    """
    shapes = [_grid(y_top)]
    if diagonal:
        shapes.append(_path([(0.0, 0.0), (1.0, 1.0)], "diagonal", y_top))
    shapes += [_path([(x, low), (x, high)], "whisker", y_top) for x, low, high in whiskers]
    shapes += [_path(line.points, f"line line-{i}", y_top) for i, line in enumerate(lines)]
    shapes += [_dot(x, y, name, y_top) for x, y, name in dots]
    shapes += _legend([line.name for line in lines] if len(lines) > 1 else [])
    shapes.append(_text(_SQUARE_LEFT + _SIDE / 2, _TOP + _SIDE + 34, x_label, "axis", "middle"))
    shapes.append(_text(12, _TOP + _SIDE / 2, y_label, "axis", "middle", upwards=True))
    return _svg(_SQUARE_LEFT + _SIDE + _SQUARE_RIGHT, _TOP + _SIDE + _BOTTOM, title, shapes)


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A matrix of counts, each cell as strong as its share of its row; the diagonal in another colour."""
    numbered = len(rows) <= _NUMBERED
    cell = _CELL if numbered else 12
    size = 12 if numbered else 9
    left = 14 + round(0.6 * size * max(map(len, rows)))
    top = 14 + round(0.6 * size * max(map(len, columns)))
    shapes = []
    for j, name in enumerate(columns):
        x = left + j * cell + cell / 2 + size / 3
        shapes.append(_text(x, top - 6, name, size=size, upwards=True))
    for i, (name, line) in enumerate(zip(rows, counts, strict=True)):
        y, total = top + i * cell, max(1, sum(line))
        shapes.append(_text(left - 6, y + cell / 2 + size / 3, name, "", "end", size=size))
        shapes += [
            _heat(
                (left + j * cell, y, cell), rows_in_cell, rows_in_cell / total, i == j,
                tip=f"{name} → {columns[j]}: {count(rows_in_cell)} of {count(total)}", numbered=numbered,
            )
            for j, rows_in_cell in enumerate(line)
            if rows_in_cell
        ]  # fmt: skip
    paper = (
        f'<rect class="cell" x="{left}" y="{top}" width="{cell * len(columns)}" height="{cell * len(rows)}"/>'
    )
    width, height = left + cell * len(columns) + 4, top + cell * len(rows) + 4
    return _svg(width, height, title, [paper, *shapes])


def _heat(
    at: tuple[float, float, int], rows: int, shade: float, hit: bool, *, tip: str, numbered: bool
) -> str:
    x, y, cell = at
    tone = "on" if shade > 0.55 else ""
    number = _text(x + cell / 2, y + cell / 2 + 4, count(rows), tone, "middle") if numbered else ""
    return (
        f"<g><title>{html.escape(tip)}</title>"
        f'<rect class="{"hit" if hit else "miss"}" x="{pixels(x + 1)}" y="{pixels(y + 1)}" '
        f'width="{cell - 2}" height="{cell - 2}" fill-opacity="{score(shade)}"/>{number}</g>'
    )


def _grid(y_top: float) -> str:
    right, bottom = _SQUARE_LEFT + _SIDE, _TOP + _SIDE
    lines = []
    for step in range(6):
        share = step / 5
        x, y = _square_x(share), _square_y(share * y_top, y_top)
        lines.append(_rule(f"M{pixels(x)} {_TOP}V{bottom}M{_SQUARE_LEFT} {pixels(y)}H{right}"))
        lines.append(_text(x, bottom + 16, setting(share), "tick", "middle"))
        lines.append(_text(_SQUARE_LEFT - 6, y + 4, setting(round(share * y_top, 3)), "tick", "end"))
    return "".join(lines)


def _path(points: Sequence[tuple[float, float]], kind: str, y_top: float) -> str:
    steps = " ".join(f"{pixels(_square_x(x))} {pixels(_square_y(min(y, y_top), y_top))}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}"/>' if points else ""


def _dot(x: float, y: float, name: str, y_top: float) -> str:
    height = _square_y(min(y, y_top), y_top)
    anchor, shift = ("end", -8) if x > 0.5 else ("start", 8)
    return (
        f'<circle class="dot" cx="{pixels(_square_x(x))}" cy="{pixels(height)}" r="4.5"/>'
        f"{_text(_square_x(x) + shift, height - 8, name, '', anchor)}"
    )


def _legend(names: Sequence[str]) -> list[str]:
    return [
        f'<path class="line line-{i}" d="M{_SQUARE_LEFT + 10} {_TOP + 14 + 18 * i}h18"/>'
        f"{_text(_SQUARE_LEFT + 34, _TOP + 18 + 18 * i, name)}"
        for i, name in enumerate(names)
    ]


def _square_x(share: float) -> float:
    return _SQUARE_LEFT + share * _SIDE


def _square_y(value: float, y_top: float) -> float:
    return _TOP + (1 - value / y_top) * _SIDE


def intervals(title: str, rows: Sequence[Mean]) -> str:
    """One row per mean: its value as a dot, hollow where samples are too few, and its interval as a line.

    The scale ends at 1 and begins where the lowest interval does.
    """
    known = [row for row in rows if row.value is not None]
    begin, steps = _begin(min((row.low for row in known), default=0.0))
    height = _ROW * len(rows) + 30
    shapes = [_scale(begin, step / steps, height) for step in range(steps + 1)]
    for number, row in enumerate(rows):
        y = _ROW * number + 16
        shapes.append(_text(_LEFT - 10, y + 4, _cut(row.name), "", "end"))
        if row.value is not None:
            shapes.append(_interval(row, row.value, y, begin))
    return _svg(_LEFT + _SCALE + _RIGHT, height, title, shapes)


def _begin(lowest: float) -> tuple[float, int]:
    """Where a scale up to 1 begins, and how many round steps it has."""
    begins = {0.9: 2, 0.8: 2, 0.7: 3, 0.6: 4, 0.5: 5, 0.4: 3, 0.2: 4}
    return next(((begin, steps) for begin, steps in begins.items() if lowest >= begin), (0.0, 5))


def _interval(row: Mean, middle: float, y: int, begin: float) -> str:
    low, dot, high = (_LEFT + _SCALE * (v - begin) / (1 - begin) for v in (row.low, middle, row.high))
    few = "" if row.enough else " few"
    tip = f"{row.name}: {with_interval(row)} of {counted(row.samples, 'sample')}"
    return (
        f"<g><title>{html.escape(tip)}</title>"
        f'<path class="whisker" d="M{pixels(low)} {y}H{pixels(high)}"/>'
        f'<circle class="mean{few}" cx="{pixels(dot)}" cy="{y}" r="4.5"/>'
        f"{_text(_LEFT + _SCALE + 12, y + 4, score(middle), 'tick')}</g>"
    )


def over_time(title: str, series: Sequence[Series], buckets: int, ends: tuple[str, str]) -> str:
    """Lines of shares in [0, 1] over the window, whose ``ends`` are written below."""
    shapes = [
        _rule(f"M{_PAD_LEFT} {pixels(_time_y(share))}H{_PAD_LEFT + _plot_width()}")
        + _text(_PAD_LEFT - 6, _time_y(share) + 4, setting(share), "tick", "end")
        for share in (0.0, 0.5, 1.0)
    ]
    for number, one in enumerate(series):
        shapes += [f'<path class="line line-{number}" d="{path}"/>' for path in _runs(one, buckets)]
    for x, anchor, end in ((_PAD_LEFT, "start", ends[0]), (_WIDE - _PAD_RIGHT, "end", ends[1])):
        shapes.append(_text(x, _HIGH - 4, end, "tick", anchor))
    return _svg(_WIDE, _HIGH, title, shapes)


def bars(title: str, rows: Sequence[tuple[str, float, float, str]]) -> str:
    """Rows of a name, a whole (a wide bar), a part of it (a narrow bar on it) and a text at the end."""
    most = max((max(whole, part) for _, whole, part, _ in rows), default=0.0) or 1.0
    shapes = []
    for number, (name, whole, part, text) in enumerate(rows):
        y = _ROW * number + 4
        shapes.append(
            f"{_text(_LEFT - 10, y + 14, _cut(name), '', 'end')}"
            f'<rect class="whole" x="{_LEFT}" y="{y}" width="{pixels(_SCALE * whole / most)}" height="18"/>'
            f'<rect class="part" x="{_LEFT}" y="{y + 4}" width="{pixels(_SCALE * part / most)}" height="10"/>'
            f"{_text(_LEFT + _SCALE + 10, y + 14, text, 'tick')}"
        )
    return _svg(_LEFT + _SCALE + _RIGHT, _ROW * len(rows) + 8, title, shapes)


def _runs(series: Series, buckets: int) -> list[str]:
    """A path per stretch without a gap; a lone point is a short dash."""
    paths: list[list[str]] = []
    last: int | None = None
    for bucket, value in series.points:
        if value is None:
            last = None
            continue
        if last is None or bucket != last + 1:
            paths.append([])
        paths[-1].append(f"{pixels(_time_x(bucket, buckets))} {pixels(_time_y(value))}")
        last = bucket
    return ["M" + " ".join(path) + ("" if len(path) > 1 else "h3") for path in paths]


def _plot_width() -> int:
    return _WIDE - _PAD_LEFT - _PAD_RIGHT


def _time_x(bucket: int, buckets: int) -> float:
    return _PAD_LEFT + _plot_width() * (bucket + 0.5) / buckets


def _time_y(value: float) -> float:
    return _PAD_TOP + (_HIGH - _PAD_TOP - _PAD_BOTTOM) * (1 - min(1.0, max(0.0, value)))


def _scale(begin: float, share: float, height: int) -> str:
    x = _LEFT + _SCALE * share
    number = setting(round(begin + (1 - begin) * share, 3))
    return _rule(f"M{pixels(x)} 4V{height - 20}") + _text(x, height - 6, number, "tick", "middle")


def _cut(name: str, limit: int = 18) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _rule(path: str) -> str:
    return f'<path class="grid" d="{path}"/>'


def _text(
    x: float, y: float, words: str, kind: str = "", anchor: str = "", *, size: int = 0, upwards: bool = False
) -> str:
    """Words at a place: of a CSS class, and with the place at their start, ``middle`` or ``end``."""
    at = f'x="{pixels(x)}" y="{pixels(y)}"'
    if upwards:
        at = f'transform="translate({pixels(x)} {pixels(y)}) rotate(-90)"'
    looks = f' class="{kind}"' if kind else ""
    looks += f' text-anchor="{anchor}"' if anchor else ""
    looks += f' font-size="{size}"' if size else ""
    return f"<text {at}{looks}>{html.escape(words)}</text>"


def _svg(width: float, height: float, title: str, shapes: Sequence[str]) -> str:
    size = f'viewBox="0 0 {pixels(width)} {pixels(height)}" width="{pixels(width)}"'
    return f'<svg role="img" {size} font-size="12"><title>{html.escape(title)}</title>{"".join(shapes)}</svg>'

"""Plots as inline SVG: a few shapes and texts, no script, no dependency, sharp at any size.

Colours are CSS classes, so that the page decides them for light and dark.
"""

import html
from collections.abc import Sequence

import msgspec

_SIDE = 300  # of the plotted square
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 10, 14, 40
_CELL = 34
_NUMBERED = 25  # routes; more, and cells are too small for numbers


class Line(msgspec.Struct, frozen=True):
    """A named line of points in [0, 1] x [0, 1]."""

    name: str
    points: Sequence[tuple[float, float]]


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
    shapes.append(
        f'<text class="axis" x="{_LEFT + _SIDE / 2:g}" y="{_TOP + _SIDE + 34}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    shapes.append(
        f'<text class="axis" transform="translate(12 {_TOP + _SIDE / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text>'
    )
    return _svg(_LEFT + _SIDE + _RIGHT, _TOP + _SIDE + _BOTTOM, title, shapes)


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
        shapes.append(
            f'<text font-size="{size}" transform="translate({x:g} {top - 6}) rotate(-90)">'
            f"{html.escape(name)}</text>"
        )
    for i, (name, line) in enumerate(zip(rows, counts, strict=True)):
        y, total = top + i * cell, max(1, sum(line))
        shapes.append(
            f'<text font-size="{size}" x="{left - 6}" y="{y + cell / 2 + size / 3:g}" '
            f'text-anchor="end">{html.escape(name)}</text>'
        )
        shapes += [
            _heat(
                (left + j * cell, y, cell), count, count / total, i == j,
                tip=f"{name} → {columns[j]}: {count} of {total}", numbered=numbered,
            )
            for j, count in enumerate(line)
            if count
        ]  # fmt: skip
    paper = (
        f'<rect class="cell" x="{left}" y="{top}" width="{cell * len(columns)}" height="{cell * len(rows)}"/>'
    )
    width, height = left + cell * len(columns) + 4, top + cell * len(rows) + 4
    return _svg(width, height, title, [paper, *shapes])


def _heat(
    at: tuple[float, float, int], count: int, shade: float, hit: bool, *, tip: str, numbered: bool
) -> str:
    x, y, cell = at
    number = ""
    if numbered:
        tone = ' class="on"' if shade > 0.55 else ""
        number = (
            f'<text{tone} font-size="12" x="{x + cell / 2:g}" y="{y + cell / 2 + 4:g}" '
            f'text-anchor="middle">{count}</text>'
        )
    return (
        f"<g><title>{html.escape(tip)}</title>"
        f'<rect class="{"hit" if hit else "miss"}" x="{x + 1:g}" y="{y + 1:g}" width="{cell - 2}" '
        f'height="{cell - 2}" fill-opacity="{shade:.3f}"/>{number}</g>'
    )


def _grid(y_top: float) -> str:
    lines = []
    for step in range(6):
        share = step / 5
        x, y = _x(share), _y(share * y_top, y_top)
        lines.append(f'<path class="grid" d="M{x} {_TOP}V{_TOP + _SIDE}M{_LEFT} {y}H{_LEFT + _SIDE}"/>')
        lines.append(
            f'<text class="tick" x="{x}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{share:g}</text>'
        )
        lines.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:g}" text-anchor="end">{share * y_top:.3g}</text>'
        )
    return "".join(lines)


def _path(points: Sequence[tuple[float, float]], kind: str, y_top: float) -> str:
    steps = " ".join(f"{_x(x):.1f} {_y(min(y, y_top), y_top):.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{steps}"/>' if points else ""


def _dot(x: float, y: float, name: str, y_top: float) -> str:
    height = _y(min(y, y_top), y_top)
    anchor, shift = ("end", -8) if x > 0.5 else ("start", 8)
    return (
        f'<circle class="dot" cx="{_x(x):.1f}" cy="{height:.1f}" r="4.5"/>'
        f'<text x="{_x(x) + shift:.1f}" y="{height - 8:.1f}" text-anchor="{anchor}">'
        f"{html.escape(name)}</text>"
    )


def _legend(names: Sequence[str]) -> list[str]:
    return [
        f'<path class="line line-{i}" d="M{_LEFT + 10} {_TOP + 14 + 18 * i}h18"/>'
        f'<text x="{_LEFT + 34}" y="{_TOP + 18 + 18 * i}">{html.escape(name)}</text>'
        for i, name in enumerate(names)
    ]


def _svg(width: float, height: float, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" font-size="12">'
        f"<title>{html.escape(title)}</title>{''.join(shapes)}</svg>"
    )


def _x(share: float) -> float:
    return _LEFT + share * _SIDE


def _y(value: float, y_top: float) -> float:
    return _TOP + (1 - value / y_top) * _SIDE

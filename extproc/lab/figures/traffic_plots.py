"""The plots of the traffic report as inline SVG: intervals, stretches of time, bars.

Colours are the classes of ``page.css``.
"""

import html
from collections.abc import Sequence

import msgspec

from extproc.lab.traffic.concerns import Rate

_ROW = 26
_LEFT, _SCALE, _RIGHT = 142, 180, 48
_WIDE, _HIGH = 300, 84  # of one plot of time
_PAD_LEFT, _PAD_RIGHT, _PAD_TOP, _PAD_BOTTOM = 34, 8, 8, 18


class Named(msgspec.Struct, frozen=True):
    """A share with the name of what it is of."""

    name: str
    rate: Rate


class Series(msgspec.Struct, frozen=True):
    """Values over the buckets of the window; a gap where nothing was measured."""

    name: str
    points: Sequence[tuple[int, float | None]]


def intervals(title: str, rows: Sequence[Named]) -> str:
    """One line per share: its middle as a dot, its interval as a line; hollow where it is of too few.

    The scale ends at 1 and begins where the lowest interval does.
    """
    known = [row for row in rows if row.rate.value is not None]
    begin, steps = _begin(min((row.rate.low for row in known), default=0.0))
    height = _ROW * len(rows) + 30
    shapes = [_scale(begin, step / steps, height) for step in range(steps + 1)]
    for number, row in enumerate(rows):
        y = _ROW * number + 16
        shapes.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{_cut(row.name)}</text>')
        if row.rate.value is not None:
            shapes.append(_interval(row.name, row.rate, row.rate.value, y, begin))
    return _svg(_LEFT + _SCALE + _RIGHT, height, title, shapes)


def _begin(lowest: float) -> tuple[float, int]:
    """Where a scale up to 1 begins, and how many round steps it has."""
    begins = {0.9: 2, 0.8: 2, 0.7: 3, 0.6: 4, 0.5: 5, 0.4: 3, 0.2: 4}
    return next(((begin, steps) for begin, steps in begins.items() if lowest >= begin), (0.0, 5))


def _interval(name: str, rate: Rate, middle: float, y: int, begin: float) -> str:
    low, dot, high = (_LEFT + _SCALE * (v - begin) / (1 - begin) for v in (rate.low, middle, rate.high))
    few = "" if rate.enough else " few"
    tip = f"{name}: {middle:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.samples}"
    return (
        f"<g><title>{html.escape(tip)}</title>"
        f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}"/>'
        f'<circle class="mean{few}" cx="{dot:.1f}" cy="{y}" r="4.5"/>'
        f'<text class="tick" x="{_LEFT + _SCALE + 12}" y="{y + 4}">{middle:.2f}</text></g>'
    )


def over_time(title: str, series: Sequence[Series], buckets: int, ends: tuple[str, str]) -> str:
    """Lines of shares in [0, 1] over the window, whose ``ends`` are written below."""
    shapes = [
        f'<path class="grid" d="M{_PAD_LEFT} {_y(level)}H{_PAD_LEFT + _plot_width()}"/>'
        f'<text class="tick" x="{_PAD_LEFT - 6}" y="{_y(level) + 4}" text-anchor="end">{level:g}</text>'
        for level in (0.0, 0.5, 1.0)
    ]
    for number, one in enumerate(series):
        shapes += [f'<path class="line line-{number}" d="{path}"/>' for path in _runs(one, buckets)]
    for x, anchor, end in ((_PAD_LEFT, "start", ends[0]), (_WIDE - _PAD_RIGHT, "end", ends[1])):
        shapes.append(
            f'<text class="tick" x="{x}" y="{_HIGH - 4}" text-anchor="{anchor}">{html.escape(end)}</text>'
        )
    return _svg(_WIDE, _HIGH, title, shapes)


def bars(title: str, rows: Sequence[tuple[str, float, float, str]]) -> str:
    """Per row a full bar (what it would have cost) and a part of it (what it did), and a text."""
    most = max((max(whole, part) for _, whole, part, _ in rows), default=0.0) or 1.0
    shapes = []
    for number, (name, whole, part, text) in enumerate(rows):
        y = _ROW * number + 4
        shapes.append(
            f'<text x="{_LEFT - 10}" y="{y + 14}" text-anchor="end">{_cut(name)}</text>'
            f'<rect class="whole" x="{_LEFT}" y="{y}" width="{_SCALE * whole / most:.1f}" height="18"/>'
            f'<rect class="part" x="{_LEFT}" y="{y + 4}" width="{_SCALE * part / most:.1f}" height="10"/>'
            f'<text class="tick" x="{_LEFT + _SCALE + 10}" y="{y + 14}">{html.escape(text)}</text>'
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
        paths[-1].append(f"{_x(bucket, buckets):.1f} {_y(value):.1f}")
        last = bucket
    return ["M" + " ".join(path) + ("" if len(path) > 1 else "h3") for path in paths]


def _plot_width() -> int:
    return _WIDE - _PAD_LEFT - _PAD_RIGHT


def _x(bucket: int, buckets: int) -> float:
    return _PAD_LEFT + _plot_width() * (bucket + 0.5) / buckets


def _y(value: float) -> float:
    return _PAD_TOP + (_HIGH - _PAD_TOP - _PAD_BOTTOM) * (1 - min(1.0, max(0.0, value)))


def _scale(begin: float, share: float, height: int) -> str:
    x = _LEFT + _SCALE * share
    return (
        f'<path class="grid" d="M{x:g} 4V{height - 20}"/><text class="tick" x="{x:g}" y="{height - 6}" '
        f'text-anchor="middle">{begin + (1 - begin) * share:.3g}</text>'
    )


def _cut(name: str, limit: int = 21) -> str:
    return html.escape(name if len(name) <= limit else name[: limit - 1] + "…")


def _svg(width: int, height: int, title: str, shapes: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" font-size="12">'
        f"<title>{html.escape(title)}</title>{''.join(shapes)}</svg>"
    )

"""The parts of every report: aligned tables for a terminal; sections, tables and the whole page in HTML.

A page is one file without scripts. Nothing in it is fetched. A wide table scrolls in its own box.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_STYLE = Path(__file__).with_name("page.css").read_text()


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need. The first is aligned left, as is a last one without a name."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 or (i == len(head) - 1 and not head[i]) else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(title: str, sections: Iterable[str]) -> str:
    """The whole document; ``title`` is text, ``sections`` are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page under a heading; ``title`` is text, ``body`` is HTML."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def tiles(figures: Iterable[tuple[str, str, str]]) -> str:
    """The main figures in a row: each with its value, a note below it (an interval) and its name."""
    made = (
        f'<div class="tile"><b>{html.escape(value)}</b><span>{html.escape(note) or "&nbsp;"}</span>'
        f"<span>{html.escape(name)}</span></div>"
        for value, note, name in figures
    )
    return f'<div class="tiles">{"".join(made)}</div>'


def note(text: str) -> str:
    """A remark in a softer colour."""
    return f'<p class="soft">{html.escape(text)}</p>'


def plots(*drawn: tuple[str, str]) -> str:
    """Plots side by side where there is room, each an SVG with its caption."""
    made = (
        f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>" for svg, caption in drawn
    )
    return f'<div class="plots">{"".join(made)}</div>'


def cell(text: str, kind: str = "") -> str:
    """One cell of a table, with an optional class."""
    return f"<td{kind}>{html.escape(text)}</td>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML. On a narrow screen it scrolls in its own box, by touch or by key."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return scrolling(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", head)


def plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are text. Unnamed columns, except the first, have sentences and may wrap."""
    kinds = [' class="words"' if i and not name else "" for i, name in enumerate(head)]
    return table(head, [[cell(text, kind) for kind, text in zip(kinds, row, strict=True)] for row in rows])


def scrolling(content: str, names: Sequence[str]) -> str:
    """A box that scrolls sideways, with a name for readers who do not see its edge."""
    label = html.escape(", ".join(name for name in names if name))
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">{content}</div>'

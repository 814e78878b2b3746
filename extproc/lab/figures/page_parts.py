"""What every page of a report is made of: sections, and tables that scroll where the screen is narrow."""

import html
from collections.abc import Iterable, Sequence


def section(title: str, body: str) -> str:
    """A part of the page under a heading; ``title`` and ``body`` are HTML."""
    return f"<section><h2>{title}</h2>{body}</section>"


def cell(text: str, kind: str = "") -> str:
    """One cell of a table, with an optional class."""
    return f"<td{kind}>{html.escape(text)}</td>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML. On a narrow screen it scrolls in its own box, by touch or by key."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return scrolling(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", head)


def scrolling(content: str, names: Sequence[str]) -> str:
    """A box that scrolls sideways, with a name for those who do not see its edge."""
    label = html.escape(", ".join(name for name in names if name))
    return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">{content}</div>'

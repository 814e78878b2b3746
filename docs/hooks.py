"""Lets pages of the site link to files of the repository, as they do on a code host.

A link such as ``../config/demo.yaml`` leaves ``docs/``. The file is copied into the site, below ``files/``,
and the link leads there. A link to a directory becomes plain text. A link to what does not exist stays as it
is, and the strict build refuses it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[([^\]\n]+)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")
_SHOWN_AS_TEXT = (".yaml", ".json", ".txt")  # by browsers; other files get the suffix .txt as well


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Point links to files of the repository at their copies. mkdocs calls it for each page."""
    here = posixpath.dirname(page.file.src_uri)

    def point(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", here, match[2]))
        source = _ROOT / target
        if target.startswith("docs/") or not source.exists():
            return match[0]
        if source.is_dir():
            return match[1]
        copy = f"files/{target}" + ("" if source.suffix in _SHOWN_AS_TEXT else ".txt")
        if files.get_file_from_path(copy) is None:
            files.append(File.generated(config, copy, content=source.read_bytes()))
        return f"[{match[1]}]({posixpath.relpath(copy, here or '.')})"

    return _LINK.sub(point, markdown)

"""Links of the documentation lead to files and headings that exist, on a code host and in the site alike."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import GUIDES, PAGES, ROOT

_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_CODE.sub("x", page.read_text())):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:extproc|tests|benchmarks|deploy|protos|config|envoy|docs)/[\w./-]*)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_is_a_front_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    assert sorted(page for page in pages if f"({page})" not in index) == []


def test_the_architecture_lists_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("## Packages")[2].partition("## Principles")[0]
    packages = {path.parent.name for path in (ROOT / "extproc").glob("[a-z]*/__init__.py")}
    assert sorted(name for name in packages if f"`extproc/{name}/`" not in table) == []


def test_the_architecture_says_where_each_step_of_a_request_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    minute = page.partition("## In one minute")[2].partition("##")[0]
    named = dict(re.findall(r"^\| (.+?) \| `([^`]+)`", minute, re.MULTILINE))
    assert {"a prompt read", "a prompt decided", "an answer judged", "a record made"} <= named.keys()
    assert [path for path in named.values() if not (ROOT / path).exists()] == []

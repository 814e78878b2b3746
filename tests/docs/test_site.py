"""`make docs` builds the site without the network, and refuses a broken link or anchor."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


def build(folder: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The site, in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=source,
        env={"NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_site_is_built_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= 15
    loaded = re.compile(
        r"""<(?:script|img|iframe)[^>]*src="?https?:|<link[^>]*rel="?(?:stylesheet|icon|preconnect)[^>]*href="?https?:"""
    )
    assert [page.name for page in pages if loaded.search(page.read_text())] == []
    assert (tmp_path / "files" / "config" / "demo.yaml").read_text() == (
        ROOT / "config" / "demo.yaml"
    ).read_text()


@pytest.mark.parametrize(
    "link", ["[a](missing.md)", "[a](operate.md#no-such-heading)", "[a](../config/missing.yaml)"]
)
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("benchmarks", "config", "deploy", "envoy", "tests", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = tmp_path / "docs" / "concepts.md"
    page.write_text(f"{page.read_text()}\n{link}\n")
    done = build(tmp_path / "site", tmp_path)
    assert (done.returncode, done.stderr.count("WARNING")) == (1, 1), done.stderr
    assert link.partition("(")[2].rstrip(")") in done.stderr

"""What the tests of the documentation read: its pages, and the code blocks in them."""

import re
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [
    *GUIDES,
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "RESULTS.md",
    ROOT / "config" / "README.md",
    ROOT / "envoy" / "README.md",
    *sorted((ROOT / "docs" / "reference").glob("*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(msgspec.Struct, frozen=True):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of the guides in these languages; without any, all of them."""
    found = []
    for path in GUIDES:
        page = path.read_text()
        for match in _BLOCK.finditer(page):
            line = page.count("\n", 0, match.start()) + 1
            found.append(Block(str(path.relative_to(ROOT)), line, match[1], match[2]))
    return [block for block in found if not languages or block.language in languages]


def command_lines(block: Block) -> list[str]:
    """The commands of a block, each on one line, without prompts, comments and what they print."""
    text = block.text.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    bare = [re.sub(r"\s+#\s.*", "", line).removesuffix("&").strip() for line in lines]
    return [line for line in bare if line]

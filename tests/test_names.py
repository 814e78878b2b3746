"""Names are unique and made of the field's words, and modules stay short."""

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import extproc

PACKAGE = Path(extproc.__file__).parent

# Python itself calls for these two names.
SHARED_MODULES = {"__init__", "__main__"}
# Generated from Envoy's own files, whose names are Envoy's.
GENERATED = {"_pb"}

COINED = {"told", "hears", "wishes", "purse", "spoken", "said", "became", "whoever", "whom"}


def modules() -> Iterator[Path]:
    """The modules that people write."""
    return (
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if GENERATED.isdisjoint(path.relative_to(PACKAGE).parts)
    )


def test_no_two_modules_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in modules():
        places[path.stem].append(str(path.relative_to(PACKAGE)))
    assert {n: p for n, p in places.items() if len(p) > 1 and n not in SHARED_MODULES} == {}


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(PACKAGE)): path.read_text().count("\n") for path in modules()}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_no_two_public_classes_have_the_same_name() -> None:
    places = defaultdict(list)
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {n: p for n, p in places.items() if len(p) > 1} == {}


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Each name in the code of a module, with its line; neither texts nor comments."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.string, token.start[0]


def test_no_identifier_is_a_coined_word() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in modules()
        for name, line in identifiers(path)
        if not COINED.isdisjoint(name.lower().split("_"))
    ]
    assert found == []

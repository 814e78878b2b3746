"""The registry's JSON Schema, for editors and for the reference pages.

Types, bounds and defaults come from the sections themselves. A key's description is the comment beside it or
above it in the source, so that there is one text for those who read the code, an editor or the documentation.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from extproc.registry.schema import Registry
from extproc.registry.section import Section

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a registry file, with a description of each key."""
    schema: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Registry)))
    definitions: dict[str, dict[str, Any]] = schema["$defs"]
    for kind in sections():
        definition = definitions[kind.__name__]
        del definition["title"]  # the class's name, which says nothing to an operator
        definition["description"] = summary(kind)
        for key, words in key_comments(kind).items():
            _describe(definition["properties"][key], words)
    return {"$schema": DIALECT, "title": "Registry of extproc", **schema}


def sections() -> list[type[Section]]:
    """Every section of a registry: the whole file first, then each one after the section that has it."""
    found: dict[type[Section], None] = {}

    def visit(kind: type[Section]) -> None:
        if kind not in found:
            found[kind] = None
            for field in msgspec.structs.fields(kind):
                for inner in sections_in(field.type):
                    visit(inner)

    visit(Registry)
    return list(found)


def sections_in(hint: Any) -> Iterator[type[Section]]:
    """The sections that a type hint mentions, as ``list[Tier]`` or ``Retry | None`` do."""
    if isinstance(hint, type) and issubclass(hint, Section):
        yield hint
    for part in getattr(hint, "__args__", ()):
        yield from sections_in(part)


def summary(kind: type[Section]) -> str:
    """The first paragraph of a section's docstring, on one line."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


def key_comments(kind: type[msgspec.Struct]) -> Mapping[str, str]:
    """The comment in the source of each key of a section or another struct, if it has one."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if inspect.get_annotations(base):
            found |= _comments_of(base)
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    return {names[name]: words for name, words in found.items()}


def _comments_of(kind: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    lines, [node] = source.splitlines(), ast.parse(source).body
    assert isinstance(node, ast.ClassDef)  # it is the source of a class
    found = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
            words = [*_above(lines, first), *filter(None, map(_comment, lines[first:last]))]
            if words:
                found[statement.target.id] = " ".join(words).replace("``", "`")
    return found


def _above(lines: list[str], end: int) -> list[str]:
    """The comment lines that stand right above line ``end``."""
    start = end
    while lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return [_comment(line) for line in lines[start:end]]


def _comment(line: str) -> str:
    """The comment that ends a line. No default or bound of a section has a ``#`` in it."""
    return line.partition("#")[2].strip()


def _describe(schema: dict[str, Any], words: str) -> None:
    schema["description"] = words
    if schema.get("default", "") is None:
        del schema["default"]  # the words say what holds without it

"""Write docs/reference/ from the code: registry keys, record fields, metrics and commands.

Run it as `python docs/generate.py` after a change of any of them. A test fails when a page is stale.
"""

import argparse
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from unittest.mock import patch

import msgspec
import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python docs/generate.py`

from docs.every_metric import instruments, labels_by_metric, prometheus_name  # noqa: E402
from extproc.cli import command_line  # noqa: E402
from extproc.registry.json_schema import key_comments, sections_in, summary  # noqa: E402
from extproc.registry.schema import Registry  # noqa: E402
from extproc.registry.section import Section  # noqa: E402
from extproc.telemetry import rows  # noqa: E402

REFERENCE: Final = ROOT / "docs" / "reference"
GUIDES: Final = (
    "registry.md",
    "languages.md",
    "llm.md",
    "cascades.md",
    "clearance.md",
    "safety.md",
    "safety-head.md",
    "train-and-evaluate.md",
)  # show every key
_NOTE: Final = "<!-- Written by docs/generate.py. Change the code it reads, and run it again. -->\n\n"
_YAML: Final = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def places() -> dict[type[Section], str]:
    """The first place of each section in a registry, such as ``routes.NAME.retry`` or ``rules[].when``."""
    found: dict[type[Section], str] = {Registry: "Top level"}

    def visit(kind: type[Section], prefix: str) -> None:
        for field in msgspec.structs.fields(kind):
            for inner, suffix in _inner_sections(field.type, ""):
                place = f"{prefix}{field.encode_name}{suffix}"
                if found.setdefault(inner, place) == place:
                    visit(inner, f"{place}.")

    visit(Registry, "")
    return found


def _inner_sections(hint: Any, suffix: str) -> Iterator[tuple[type[Section], str]]:
    """The sections that a type hint mentions, each with the step from the key to it."""
    if isinstance(hint, type) and issubclass(hint, Section):
        yield hint, suffix
    step = {dict: ".NAME", list: "[]", tuple: "[]"}.get(get_origin(hint), "")
    for part in get_args(hint):
        yield from _inner_sections(part, suffix + step)


PLACES: Final = places()

Key = tuple[type[Section], str]  # the section that declares a key, and the key


def pages() -> dict[str, str]:
    """Every reference page, by its file name."""
    return {
        "registry.md": _NOTE + registry_page(),
        "records.md": _NOTE + records_page(),
        "metrics.md": _NOTE + metrics_page(),
        "commands.md": _NOTE + commands_page(),
    }


# The registry.


def registry_page() -> str:
    """One table per section of the registry."""
    examples = examples_of(guide_blocks())
    parts = [
        "# Registry keys\n\n"
        "Every key of the registry file, with its type, its default and an example. "
        "[Write a registry](../registry.md) explains them in context. `extproc schema` prints the same as "
        "JSON Schema for editors. An unknown key is an error.\n"
    ]
    parts += [
        f"## {place}\n\n{summary(kind)}\n\n{_section_table(kind, examples)}" for kind, place in PLACES.items()
    ]
    return "\n".join(parts)


def guide_blocks() -> list[str]:
    """The YAML examples of the guides."""
    return [block for name in GUIDES for block in _YAML.findall((ROOT / "docs" / name).read_text())]


def examples_of(blocks: Iterable[str]) -> dict[Key, Any]:
    """The first value that any of these YAML texts gives to each key of the registry."""
    found: dict[Key, Any] = {}
    for block in blocks:
        for key, value in keys_shown(Registry, yaml.safe_load(block)):
            found.setdefault(key, value)
    return found


def keys_shown(hint: Any, value: Any) -> Iterator[tuple[Key, Any]]:
    """Each key of a section that ``value`` gives, at its own place in the type ``hint``."""
    if isinstance(hint, type) and issubclass(hint, Section):
        if isinstance(value, dict):
            for field in msgspec.structs.fields(hint):
                if field.encode_name in value:
                    inner = value[field.encode_name]
                    yield (declaring(hint, field.name), field.encode_name), inner
                    yield from keys_shown(field.type, inner)
    elif get_origin(hint) is Annotated:
        yield from keys_shown(get_args(hint)[0], value)
    elif isinstance(value, dict) and get_origin(hint) is dict:
        for inner in value.values():
            yield from keys_shown(get_args(hint)[1], inner)
    elif isinstance(value, list) and get_origin(hint) in (list, tuple):
        for inner in value:
            yield from keys_shown(get_args(hint)[0], inner)
    elif get_origin(hint) is not Literal:
        for choice in get_args(hint):  # of a union
            yield from keys_shown(choice, value)


def declaring(kind: type[Section], name: str) -> type[Section]:
    """The class of ``kind`` and its bases that declares a field."""
    return next(base for base in reversed(kind.__mro__) if name in inspect.get_annotations(base))


def _section_table(kind: type[Section], examples: Mapping[Key, Any]) -> str:
    lines = ["| key | type and default | meaning and example |", "|---|---|---|"]
    comments = key_comments(kind)
    for field in msgspec.structs.fields(kind):
        key = field.encode_name
        words, default = _split_default(comments[key])
        default = f"default: {default}" if default else _default(field)
        example = _example(key, examples.get((declaring(kind, field.name), key)))
        meaning = _sentence(words) + ("" if words.endswith((".", ")")) else ".")
        cells = (
            f"`{key}`",
            _type_name(field.type) + (f"<br>{default}" if default else ""),
            meaning + (f"<br>{example}" if example else ""),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _sentence(words: str) -> str:
    """With a capital letter, unless the first word is a name or an address."""
    return words if words.startswith(("http", "gen_ai", "`")) else words[:1].upper() + words[1:]


def _split_default(words: str) -> tuple[str, str]:
    """A comment without ``(default: ...)``, and what stands there."""
    match = re.search(r"\s*\(default: (.*)\)$", words)
    return (words[: match.start()], match[1]) if match else (words, "")


def _type_name(hint: Any) -> str:
    """A type hint in words, with links to sections."""
    inner = list(sections_in(hint))
    if get_origin(hint) is Annotated:
        bounds = next((meta for meta in get_args(hint)[1:] if isinstance(meta, msgspec.Meta)), msgspec.Meta())
        return _type_name(get_args(hint)[0]) + _bounds(bounds)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is dict:
        return f"map of name to {_type_name(get_args(hint)[1])}"
    if get_origin(hint) in (list, tuple):
        return f"list of {_type_name(get_args(hint)[0])}"
    if get_args(hint):  # a union
        return " or ".join(_type_name(part) for part in get_args(hint) if part is not type(None))
    if inner:
        place = PLACES[inner[0]]
        return f"[{place}](#{re.sub(r'[^a-z_]', '', place.lower())})"
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return ", ".join(f"`{member}`" for member in hint.__members__.values())
    return {str: "text", bool: "true or false", int: "integer", float: "number"}[hint]


def _bounds(meta: msgspec.Meta) -> str:
    words = [
        f"{sign} {bound:,}"
        for sign, bound in ((">", meta.gt), ("≥", meta.ge), ("<", meta.lt), ("≤", meta.le))
        if bound is not None
    ]
    return f" ({', '.join(words)})" if words else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**required**"
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, Section):
        return ""  # the defaults of its own keys
    if value in (None, "", [], {}, ()):
        return "default: none"
    return f"default: `{value if isinstance(value, str) else json.dumps(msgspec.to_builtins(value))}`"


def _example(key: str, value: Any) -> str:
    if value is None:
        return ""
    text = yaml.safe_dump({key: value}, default_flow_style=True, sort_keys=False, width=10_000)
    text = text.strip()[1:-1]
    return f"`{text}`" if len(text) <= 60 else ""


# Records.

_KINDS: Final[Mapping[type[rows.Row], str]] = {
    rows.ExchangeRow: "One line per request. With a cascade, tokens and cost are those of all attempts.",
    rows.AttemptRow: "One line per model that was asked in turn, for a `fallback` or a `cascade`.",
    rows.EvaluationRow: "One line per opinion on an answer: the verdict of a gate, a score, feedback.",
}


def records_page() -> str:
    """One table per kind of record."""
    parts = [
        "# Record fields\n\n"
        "Each record is one JSON object on one line; `kind` says which one. A number or a truth value that "
        "is not known is null, a text is empty, a choice is `unknown`; never 0. All kinds join by "
        "`request_id`. Spans have the same facts as attributes; there the time to the first token is in "
        "seconds. [Observe](../observe.md) explains how to use them.\n"
    ]
    parts += [
        f"## {rows.kind_of(kind)}\n\n{words}\n\n{_record_table(kind)}" for kind, words in _KINDS.items()
    ]
    return "\n".join(parts)


def _record_table(kind: type[rows.Row]) -> str:
    comments = key_comments(kind)
    lines = ["| field | type and span attribute | meaning |", "|---|---|---|"]
    for field in rows.fields_of(kind):
        name = field.info.name
        on_spans = f"<br>`{field.attribute.name}`" if field.attribute else ""
        cells = (f"`{name}`", _record_type(field.type) + on_spans, _sentence(comments.get(name, "")))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _record_type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {_record_type(get_args(hint)[0])}"
    if get_args(hint):
        return _record_type(get_args(hint)[0]) + " or null"
    return {str: "text", bool: "true or false", int: "integer", float: "number"}.get(hint, "time")


# Metrics.


def metrics_page() -> str:
    """One table of all metrics."""
    lines = [
        "# Metrics\n",
        "Every metric of the sidecar. Names are those of the page `/metrics`; by OTLP they have dots in "
        "place of underscores and no `_total` or `_seconds`. A histogram has `_bucket`, `_sum` and `_count` "
        "series. [Observe](../observe.md#metrics) says which ones to watch.\n",
        "| metric | kind and labels | meaning |",
        "|---|---|---|",
    ]
    labels = labels_by_metric()
    for name, kind, unit, description in instruments():
        shown = prometheus_name(name, kind, unit)
        own = sorted(labels.get(shown) or labels[f"{shown}_count"])
        by = "<br>" + ", ".join(f"`{label}`" for label in own) if own else ""
        lines.append(f"| `{shown}` | {kind}{by} | {description} |")
    return "\n".join(lines) + "\n"


# Commands.


def commands_page() -> str:
    """One table of options per command."""
    parts = ["# Commands\n\nEvery command with its options. `extproc COMMAND --help` prints the same.\n"]
    with patch.dict(os.environ):
        os.environ.pop("ADMIN_PORT", None)  # it is the default of an option
        parts += [
            f"## {name}\n\n{parser.description or ''}\n\n{_options_table(parser)}"
            for name, parser in commands(command_line(), "extproc")
        ]
    return "\n".join(parts)


def commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command that can run, with its full name."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for command, its_parser in action.choices.items():
            yield from commands(its_parser, f"{name} {command}")
    if not inner:
        yield name, parser


def _options_table(parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    if not actions:
        return "It has no options.\n"
    lines = ["| option | meaning |", "|---|---|"]
    for action in actions:
        words = parser._get_formatter()._expand_help(action) if action.help else ""
        cells = (_invocation(action), " ".join(words.split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _invocation(action: argparse.Action) -> str:
    """An option as it is written, and whether it must be."""
    value = str(action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest))
    value = value if action.metavar or action.choices else value.upper()
    parts = [action.option_strings[-1]] if action.option_strings else []
    if action.nargs != 0:
        parts.append(value)
    required = action.required and bool(action.option_strings)
    return f"`{' '.join(parts)}`" + (" **required**" if required else "")


if __name__ == "__main__":
    for page, content in pages().items():
        (REFERENCE / page).write_text(content)

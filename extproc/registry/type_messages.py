"""Says in plain words why a value has the wrong type, and what was expected.

msgspec finds the mistake, but writes for programmers: "Expected `object | null`, got `float` - at `$.price`".
"""

import difflib
import enum
import re
from collections.abc import Collection, Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

Path = tuple[str | int, ...]

_AT = re.compile(r"^(?P<problem>.*?)(?: - at (?:`key` in )?`(?P<path>\$.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>[^`]*)`(?P<bound>[^,]*)(?:, got `(?P<got>.*)`)?", re.DOTALL)
_NOT_A_CHOICE = re.compile(r"Invalid enum value (?P<got>.*)", re.DOTALL)
_ANY_KEY = "..."  # in a path of msgspec: some key of a mapping, which it does not name
_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}
_GOT = {**_WORDS, "float": "a decimal number"}


class TypeMistake(msgspec.Struct, frozen=True):
    """One value of the wrong type."""

    problem: str  # what is wrong and what was expected
    place: str  # of the value as msgspec writes it, `rules[2].when`; empty: the whole
    path: Path  # the same in steps, up to a key that msgspec does not name
    missing: str = ""  # the required key that the value lacks
    unknown: str = ""  # the key of the value that it does not take


def type_mistake(error: msgspec.ValidationError, kind: Any) -> TypeMistake:
    """The mistake that kept a value from being of type ``kind``."""
    parts = _AT.match(str(error))
    assert parts is not None  # the pattern matches any text
    place, problem = parts["path"] or "$", parts["problem"]
    missing, unknown = _MISSING.fullmatch(problem), _UNKNOWN.fullmatch(problem)
    steps = _steps(place)
    return TypeMistake(
        problem=_in_words(problem, _type_at(kind, steps)),
        place=place[1:].removeprefix("."),
        path=steps[: steps.index(_ANY_KEY)] if _ANY_KEY in steps else steps,
        missing=missing["key"] if missing else "",
        unknown=unknown["key"] if unknown else "",
    )


def keys_at(kind: Any, path: Path) -> list[str]:
    """The keys that the section at ``path`` below ``kind`` takes."""
    return [field.encode_name for field in _fields(_type_at(kind, path))]


def stand_in(kind: Any, path: Path) -> Any:
    """A plain value for what cannot be read at ``path`` below ``kind``. Required keys in it are missing.

    Raises ``LookupError`` if no value can stand in for it.
    """
    return _stand_in(msgspec.inspect.type_info(_type_at(kind, path)))


def _stand_in(kind: msgspec.inspect.Type) -> Any:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return min((_stand_in(each) for each in types), key=bool)  # an empty mapping names nothing
        case msgspec.inspect.StructType() | msgspec.inspect.DictType():
            return {}
        case msgspec.inspect.ListType(item_type=item, min_length=least):
            return [_stand_in(item)] * (least or 0)
        case msgspec.inspect.StrType():
            return "(unreadable)"
        case msgspec.inspect.FloatType(gt=None):
            return 0.0
    raise LookupError(kind)


def _steps(place: str) -> Path:
    """``$.rules[2].when`` -> ("rules", 2, "when")."""
    return tuple(
        name or (_ANY_KEY if index == _ANY_KEY else int(index)) for name, index in _STEP.findall(place)
    )


def _type_at(kind: Any, path: Path) -> Any:
    """The type that is declared at ``path`` below ``kind``; Any where none is."""
    for step in path:
        kind = next(_below(kind, step), Any)
    return kind


def _below(kind: Any, step: str | int) -> Iterator[Any]:
    for each in _alternatives(kind):
        if get_origin(each) in (list, dict) and (isinstance(step, int) or step == _ANY_KEY):
            yield from get_args(each)[-1:]  # of a list its item, of a mapping its value
        yield from (field.type for field in _fields(each) if field.encode_name == step)


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types of a union, without what annotates them."""
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


def _fields(kind: Any) -> Iterator[msgspec.structs.FieldInfo]:
    for each in _alternatives(kind):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            yield from msgspec.structs.fields(each)


def _in_words(problem: str, kind: Any) -> str:
    if missing := _MISSING.fullmatch(problem):
        return f"missing key `{missing['key']}`"
    if unknown := _UNKNOWN.fullmatch(problem):
        return f"unknown key `{unknown['key']}`"
    if choice := _NOT_A_CHOICE.fullmatch(problem):
        # A value in place of a mapping may be a secret, which no message may show.
        got = "" if any(_fields(kind)) else f"; got {choice['got']}"
        return f"must be {_expected(['str'], kind)}{got}"
    if wrong := _WRONG_TYPE.fullmatch(problem):
        got = f"; got {_GOT.get(wrong['got'], wrong['got'])}" if wrong["got"] else ""
        return f"must {_bounded(wrong['expected'].split(' | '), wrong['bound'], kind)}{got}"
    return problem[0].lower() + problem[1:]


def _bounded(expected: list[str], bound: str, kind: Any) -> str:
    if bound == " of length >= 1":
        return "not be empty"
    return f"be {_expected(expected, kind)}{bound.replace(' of length', ' with a length')}"


def _expected(types: list[str], kind: Any) -> str:
    """What may stand there: nothing is never listed, since an optional key can be left out."""
    choices = [str(choice) for choice in _choices(kind)]
    words = [f"one of {', '.join(choices)}"] if len(choices) > 1 else choices
    if not choices:
        words = [_WORDS.get(each, each) for each in types if each not in ("null", "object")]
    if "object" in types or (choices and any(_fields(kind))):
        words.append(_mapping(kind))
    return " or ".join(words)


def _mapping(kind: Any) -> str:
    for each in _alternatives(kind):
        if example := getattr(each, "example", ""):
            return f"a mapping such as {example}"
    required = [f"`{field.encode_name}`" for field in _fields(kind) if field.required]
    return f"a mapping with {' and '.join(required)}" if required else "a mapping"


def _choices(kind: Any) -> Iterator[object]:
    for each in _alternatives(kind):
        if get_origin(each) is Literal:
            yield from get_args(each)
        elif isinstance(each, type) and issubclass(each, enum.Enum):
            yield from (choice.value for choice in each)


def closest(name: str, known: Collection[str]) -> str:
    """The known name that is most like ``name``; empty: none is close."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question with the known name closest to ``name``, and a space; empty: none is close."""
    close = closest(name, known)
    return f"did you mean `{close}`? " if close else ""

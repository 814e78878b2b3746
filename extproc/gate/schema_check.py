"""Validates a value against a JSON schema that a client sent, in bounded time.

A schema may validate the same value in two ways, each of which does so again with the value's parts. The time
is then exponential in the depth of the value, and the client controls both. So a schema is examined before it
is used, and a schema that could take long accepts every value.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

import jsonschema_rs

_WORK: Final = 20_000_000  # subschemas times characters of the value: a fifth of a second

# Keywords whose subschemas read the same value, or parts of it. Subschemas of one keyword that read
# different parts are one group.
_EACH: Final = ("allOf", "anyOf", "oneOf")
_ONE: Final = (
    "not", "if", "then", "else", "additionalProperties", "unevaluatedProperties", "propertyNames",
    "additionalItems", "unevaluatedItems", "contains",
)  # fmt: skip
_EACH_NAMED: Final = ("patternProperties", "dependentSchemas", "dependencies")
# Keywords that change what a reference means.
_REBASED: Final = frozenset({"$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"})


def fits(value: object, schema: Mapping[str, Any], size: int) -> bool:
    """Whether ``value``, which was read from ``size`` characters, is valid against ``schema``.

    Every value is valid if the schema is not a schema, refers outside itself, or could take long. Nothing is
    fetched, and patterns take linear time.
    """
    try:
        if _Survey(schema).work * size > _WORK:
            return True
        validator = jsonschema_rs.validator_for(
            dict(schema),
            offline=True,
            validate_formats=False,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
        return validator.is_valid(value)
    except (_Unusable, ValueError, TypeError, RecursionError, jsonschema_rs.ReferencingError):
        return True


class _Unusable(Exception):
    """The schema is not used."""


class _Survey:
    """Counts how often a schema may read one value: by its subschemas and what they refer to.

    Recursive subschemas are found as strongly connected components (Tarjan, 1972).
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        """Raises ``_Unusable``, and ``RecursionError`` if it is nested too deeply."""
        self._root = root
        self._order: dict[int, int] = {}  # by identity: all are parts of one decoded document
        self._lowest: dict[int, int] = {}
        self._stack: list[int] = []
        self._component: dict[int, int] = {}
        self._cost: dict[int, int] = {}
        self._recursive: set[int] = set()  # subschemas that lead back to themselves, or to such a subschema
        self._visit(root)
        self.work = self._cost[id(root)]

    def _visit(self, schema: Mapping[str, Any]) -> None:
        me = id(schema)
        self._order[me] = self._lowest[me] = len(self._order)
        self._stack.append(me)
        groups = list(self._groups(schema))
        for child in (child for group in groups for child in group):
            if id(child) not in self._order:
                self._visit(child)
            if id(child) not in self._component:
                self._lowest[me] = min(self._lowest[me], self._lowest[id(child)])
        self._weigh(me, groups)
        if self._lowest[me] == self._order[me]:
            self._close(me)

    def _weigh(self, me: int, groups: list[list[Mapping[str, Any]]]) -> None:
        """Counts a subschema that leads back to this one once. Two of them are too many."""
        back = [any(id(child) not in self._component for child in group) for group in groups]
        ahead = [child for child in map(id, chain.from_iterable(groups)) if child in self._component]
        onwards = any(child in self._recursive for child in ahead)
        # A recursion inside another one takes quadratic time.
        if sum(back) > 1 or (any(back) and onwards):
            raise _Unusable
        if any(back) or onwards:
            self._recursive.add(me)
        self._cost[me] = 1 + sum(self._cost[child] for child in ahead)
        if self._cost[me] > _WORK:
            raise _Unusable

    def _close(self, first: int) -> None:
        """Closes a component. Each member costs the sum of all members."""
        members = self._stack[self._stack.index(first) :]
        del self._stack[-len(members) :]
        cost = sum(self._cost[member] for member in members)
        for member in members:
            self._component[member] = first
            self._cost[member] = cost

    def _groups(self, schema: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
        if not _REBASED.isdisjoint(schema):
            raise _Unusable
        for keyword in _EACH:
            for part in _parts(schema.get(keyword)):
                yield [part]
        for keyword in _EACH_NAMED:
            for part in _parts(schema.get(keyword), named=True):
                yield [part]
        for keyword in _ONE:
            yield _parts([schema.get(keyword)])
        yield _parts(schema.get("properties"), named=True)
        for keyword in ("prefixItems", "items"):
            items = schema.get(keyword)
            yield _parts(items if isinstance(items, list) else [items])
        if "$ref" in schema:
            yield _parts([self._referred(schema["$ref"])])

    def _referred(self, reference: object) -> object:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _Unusable
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise _Unusable
        return found


def _parts(value: object, *, named: bool = False) -> list[Mapping[str, Any]]:
    """The subschemas of a list, or of a mapping by name. True and false are left out: they read nothing."""
    if named:
        return [part for part in value.values() if isinstance(part, dict)] if isinstance(value, dict) else []
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []

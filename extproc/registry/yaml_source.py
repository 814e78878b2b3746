"""Reads YAML into plain values, and keeps the line of each value for error messages.

PyYAML's own loader loses the lines, and silently accepts a key that is given twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from extproc.errors import RegistryError
from extproc.registry.type_messages import Path


class Source:
    """One YAML file: its plain value and the line of every node in it."""

    def __init__(self, file: str, text: str) -> None:
        """Raises ``RegistryError`` if the text is not YAML, repeats a key, or is not a mapping."""
        self.file = file
        self._lines: dict[Path, int] = {}
        self._mistakes: list[RegistryError] = []
        self._unread: set[Path] = set()  # values that could not be read, or are missing
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RegistryError(file, line, f"invalid YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise RegistryError(file, 1, f"invalid YAML: {error}") from error
        except RecursionError as error:
            raise RegistryError(file, 1, "nested too deeply") from error
        if not isinstance(root, yaml.MappingNode):
            raise RegistryError(file, 1, "expected a mapping with the keys models, default, routes, ...")
        self._scalars = yaml.SafeLoader("")
        self._open: set[int] = set()  # nodes being read: an alias may make a node its own descendant
        self.value: dict[str, Any] = self._read(root, ())

    def line(self, *path: str | int) -> int:
        """The 1-based line of the node at ``path``, or of its closest known ancestor."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def error(self, problem: str, *path: str | int) -> RegistryError:
        """An error at the node at ``path``."""
        return RegistryError(self.file, self.line(*path), problem, at=path)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect a ``RegistryError`` of the block for ``refuse``, so that later checks run too.

        A check may look up a name that an earlier check rejected. Its ``KeyError`` is then ignored.
        """
        try:
            yield
        except RegistryError as error:
            self.keep(error)
        except KeyError:
            if not self._mistakes:
                raise

    def keep(self, mistake: RegistryError) -> None:
        """Collect a mistake for ``refuse``, unless it is about a value that could not be read."""
        if not any(mistake.at[: len(path)] == path for path in self._unread):
            self._mistakes.append(mistake)

    def leave_out(self, mistake: RegistryError, *path: str | int) -> None:
        """Collect the mistake because of which the value at ``path`` cannot be read."""
        self.keep(mistake)
        self._unread.add(path)

    def is_unread(self, *path: str | int) -> bool:
        """Whether the value at ``path``, a part of it, or what it is a part of could not be read."""
        return any(path[: len(other)] == other[: len(path)] for other in self._unread)

    def mistakes(self) -> RegistryError:
        """All collected mistakes as one error, in the order of their lines. There is at least one."""
        unique = {(mistake.line or 0, mistake.problem): mistake for mistake in self._mistakes}
        first, *more = (unique[key] for key in sorted(unique))
        return RegistryError(first.file, first.line, first.problem, tuple(more))

    def refuse(self) -> None:
        """Raise the ``RegistryError`` of all collected mistakes, if there are any."""
        if self._mistakes:
            raise self.mistakes()

    def _read(self, node: yaml.Node, path: Path) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.error("an alias contains itself", *path)
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = [self._read(item, (*path, i)) for i, item in enumerate(node.value)]
        self._open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RegistryError(self.file, line, "expected a plain key, got a list or a mapping")
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise RegistryError(self.file, line, "merge keys (<<) are not supported; write the keys out")
            key = key_node.value
            if key in value:
                first = self._lines[(*path, key)]
                raise RegistryError(self.file, line, f"the key {key!r} is already given on line {first}")
            self._lines[(*path, key)] = line
            value[key] = self._read(value_node, (*path, key))
        return value

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or error
            raise RegistryError(self.file, node.start_mark.line + 1, f"invalid YAML: {problem}") from error

"""Replaces personal data and secrets by numbered placeholders, such as ``[EMAIL_1]``.

An equal value gets an equal number in all texts of a request, so a model still sees who is who. Nothing is
kept: the placeholders are not replaced back in the answer, which never passes the sidecar.
"""

import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from extproc.safety.checksums import plain
from extproc.safety.findings import Finding
from extproc.safety.text_folding import folded
from extproc.safety.text_scan import find


class Redactor:
    """The placeholders of one request."""

    def __init__(self, kinds: Iterable[str], allowed: Sequence[str] = ()) -> None:
        """Replaces findings of ``kinds``, but none that matches one of the ``allowed`` shell patterns."""
        self._kinds = frozenset(kinds)
        self._allowed = allowed_by(allowed)
        self._numbers: dict[tuple[str, str], int] = {}
        self._per_kind: Counter[str] = Counter()

    def findings(self, text: str) -> tuple[Finding, ...]:
        """What is to be replaced in ``text``."""
        return tuple(
            each for each in find(text, self._kinds) if not self._allowed(text[each.start : each.end])
        )

    def redacted(self, text: str) -> str:
        """``text`` with placeholders; the same object if nothing is to be replaced."""
        findings = self.findings(text)
        if not findings:
            return text
        pieces: list[str] = []
        done = 0
        for each in findings:
            pieces += (text[done : each.start], self._placeholder(each.kind, text[each.start : each.end]))
            done = each.end
        return "".join((*pieces, text[done:]))

    def _placeholder(self, kind: str, value: str) -> str:
        key = kind, identity(value)
        if key not in self._numbers:
            self._per_kind[kind] += 1
            self._numbers[key] = self._per_kind[kind]
        return f"[{kind.upper()}_{self._numbers[key]}]"


def identity(value: str) -> str:
    """Equal for two spellings of a value: with other separators, in another case or script."""
    return plain(folded(value)) or value


def allowed_by(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a value matches one of the shell patterns, in any case."""
    return _allowed_by(tuple(patterns))


@functools.lru_cache(maxsize=64)  # a registry has one list, and each request asks for it
def _allowed_by(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    matches = [re.compile(fnmatch.translate(pattern.casefold())).match for pattern in patterns]
    return lambda value: any(match(value.casefold()) for match in matches)

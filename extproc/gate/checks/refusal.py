"""Refusals: the model says that it will not, or can not, do what it was asked.

Models refuse in their first sentences and in few words, so only the opening is searched: further on
the same words are mostly about something else. The patterns were chosen on one half of the XSTest
completions and measured on the other (``benchmarks/RESULTS.md``); those of other languages than
English follow the same forms and have their own examples in the tests.
"""

from typing import Final

import re2

from extproc.apis.model_answer import Finish, ModelAnswer
from extproc.gate.checks.refusal_patterns import PATTERNS
from extproc.gate.gate_vocabulary import Asked

OPENING: Final = 240  # characters


def _compiled(pattern: str) -> "re2._Regexp":
    options = re2.Options()
    options.max_mem = 16 * 1024 * 1024  # gaps of so many characters make large automata
    options.log_errors = False  # a pattern that outgrows it is searched more slowly, and no less surely
    return re2.compile(pattern, options)


_APOSTROPHES: Final = str.maketrans(dict.fromkeys("’‘ʼ`", "'"))
_COMPILED: Final = tuple(map(_compiled, PATTERNS.values()))


def refuses(text: str) -> bool:
    """Whether ``text`` opens as a refusal does, in any of the languages."""
    opening = text[:OPENING].lower().translate(_APOSTROPHES)
    return any(pattern.search(opening) for pattern in _COMPILED)


def check(asked: Asked, answer: ModelAnswer) -> str:
    """Rejects what the API marks as a refusal, and a text that opens as one."""
    if answer.refusal or answer.finish is Finish.REFUSAL:
        return "refusal"
    return "refusal_text" if refuses(answer.text) else ""

"""The text of a request that rules read, in all forms in which it is matched.

A text is matched as it came and, if it is not ASCII, also folded (``text_folding``). A text of several
parts is matched with each part on its own line and also joined without a separator, because a client can
split a word or a number over parts.
"""

from collections.abc import Iterable

import msgspec

from extproc.routing.text_folding import folded
from extproc.vocabulary import Passage, Question, Scope

# Between passages. White space does not match all of it, and a dot does not match a line's end, so
# no common pattern reaches from one passage into the next.
_BETWEEN = "\n\0\n"


class RuleText(msgspec.Struct, frozen=True):
    """The text of one scope."""

    forms: tuple[str, ...]  # every form of every passage
    whole: str  # all of them in one
    chars: int  # of the text as it came


class Reading:
    """One question while its rules are evaluated. Each scope is read once, when a rule first needs it."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._texts: dict[Scope, RuleText] = {}

    def text(self, scope: Scope) -> RuleText:
        """The text of ``scope``."""
        found = self._texts.get(scope)
        if found is None:
            found = self._texts[scope] = text_of(_passages(self.question, scope))
        return found


def text_of(passages: Iterable[Passage]) -> RuleText:
    """The text of ``passages``, in all its forms."""
    apart = ["\n".join(filter(None, parts)) for parts in passages]
    joined = ("".join(parts) for parts in passages if len(parts) > 1)
    typed = dict.fromkeys((*apart, *joined))
    forms = tuple(dict.fromkeys((*typed, *map(folded, typed))))
    return RuleText(forms, _BETWEEN.join(forms), len("\n".join(apart)))


def _passages(question: Question, scope: Scope) -> tuple[Passage, ...]:
    request = question.request
    latest = (request.user_parts or (request.user_text,),)
    if scope is Scope.LATEST_USER:
        return latest
    if scope is Scope.EVERYTHING and question.everything is not None:
        return question.everything()
    return request.user_turns or latest

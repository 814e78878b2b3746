"""Rules: conditions of the operator, compiled once and evaluated for every request in microseconds.

A rule holds when all its conditions hold. Regular expressions are RE2, whose time is linear in the text.
So no client can make one slow.

A text is matched as it came and, if it is not ASCII, also folded (``text_folding``). A text of several
parts is matched with each part on its own line and also joined without a separator, because a client can
split a word or a number over parts.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

import msgspec
import re2

from extproc.safety.quiet_patterns import compiled
from extproc.safety.text_folding import folded
from extproc.vocabulary import ModelName, Passage, Question, RouteName, Scope

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
            found = self._texts[scope] = text_of(passages_of(self.question, scope))
        return found


def text_of(passages: Iterable[Passage]) -> RuleText:
    """The text of ``passages``, in all its forms."""
    apart = ["\n".join(filter(None, parts)) for parts in passages]
    joined = ("".join(parts) for parts in passages if len(parts) > 1)
    typed = dict.fromkeys((*apart, *joined))
    forms = tuple(dict.fromkeys((*typed, *map(folded, typed))))
    return RuleText(forms, _BETWEEN.join(forms), len("\n".join(apart)))


def passages_of(question: Question, scope: Scope) -> tuple[Passage, ...]:
    """The passages of the request that ``scope`` names."""
    request = question.request
    latest = (request.user_parts or (request.user_text,),)
    if scope is Scope.LATEST_USER:
        return latest
    if scope is Scope.EVERYTHING and question.everything is not None:
        return question.everything()
    return request.user_turns or latest


Condition = Callable[[Reading], bool]


class CompiledRule(msgspec.Struct, frozen=True):
    """A compiled rule. At most one of ``deny``, ``route`` and ``model`` is not empty."""

    name: str
    conditions: tuple[Condition, ...]
    deny: str = ""
    route: RouteName = RouteName("")
    model: ModelName = ModelName("")
    labels: tuple[str, ...] = ()  # what the request carries if the rule holds

    def holds(self, reading: Reading) -> bool:
        """Whether all conditions hold."""
        return all(condition(reading) for condition in self.conditions)


def first_that_holds(rules: Iterable[CompiledRule], question: Question) -> CompiledRule | None:
    """The first rule, in the registry's order, that holds."""
    reading = Reading(question)
    return next((rule for rule in rules if rule.holds(reading)), None)


def path_like(patterns: Sequence[str]) -> Condition:
    """The path without its query matches one of the shell patterns."""
    like = _any_like(patterns)
    return lambda reading: like(reading.question.head.path.partition("?")[0])


def model_like(patterns: Sequence[str]) -> Condition:
    """The model name that the client sent matches one of the shell patterns."""
    like = _any_like(patterns)
    return lambda reading: like(reading.question.request.model)


def tool_like(patterns: Sequence[str]) -> Condition:
    """The request offers a tool whose name matches one of the shell patterns."""
    like = _any_like(patterns)
    return lambda reading: any(like(tool) for tool in reading.question.request.tools)


def header_in(name: str, values: Sequence[str]) -> Condition:
    """The request header has one of the values, exactly."""
    name, allowed = name.lower(), frozenset(values)
    return lambda reading: reading.question.head.headers.get(name) in allowed


def media_present(expected: bool) -> Condition:
    """The latest user turn carries (or does not carry) images or other media."""
    return lambda reading: (reading.question.request.images > 0) is expected


def chars_between(low: int | None, high: int | None, scope: Scope = Scope.LATEST_USER) -> Condition:
    """The text of ``scope`` has from ``low`` to ``high`` characters, both included."""
    between = _between(low, high)
    return lambda reading: between(reading.text(scope).chars)


def bytes_between(low: int | None, high: int | None) -> Condition:
    """The body has from ``low`` to ``high`` bytes, both included."""
    between = _between(low, high)
    return lambda reading: between(reading.question.request.body_bytes)


def keyword_in_text(keywords: Sequence[str], scope: Scope = Scope.LATEST_USER) -> Condition:
    """The text of ``scope`` contains one of the words or phrases, as whole words, in any case.

    RE2's ``\\b`` knows only ASCII letters, so the word boundary is spelled out for every script.
    """
    words = "|".join(re2.escape(keyword) for keyword in keywords)
    search = _search(rf"(?i)(?:^|[^\pL\pN_])(?:{words})(?:$|[^\pL\pN_])")
    return lambda reading: search(reading.text(scope).whole)


def regex_in_text(pattern: str, scope: Scope = Scope.LATEST_USER) -> Condition:
    """The RE2 pattern is found in the text of ``scope``. Raises ``re2.error`` on a bad pattern.

    A pattern that may be anchored is searched in each passage separately, so ``^`` matches at the start of
    every turn.
    """
    search = _search(pattern)
    if _MAY_BE_ANCHORED.search(pattern):
        return lambda reading: any(map(search, reading.text(scope).forms))
    return lambda reading: search(reading.text(scope).whole)


_MAY_BE_ANCHORED = re.compile(r"[\^$]|\\[AzZ]")


def _search(pattern: str) -> Callable[[str], bool]:
    search = compiled(pattern).search
    return lambda text: search(text) is not None


def _any_like(patterns: Sequence[str]) -> Callable[[str], bool]:
    matches = [re.compile(fnmatch.translate(pattern)).match for pattern in patterns]
    return lambda text: any(match(text) is not None for match in matches)


def _between(low: int | None, high: int | None) -> Callable[[int], bool]:
    least, most = low or 0, float("inf") if high is None else high
    return lambda size: least <= size <= most

"""Safety: personal data, secrets and harm in a request, and what is done about them.

What patterns find needs no embedding; a trained head may judge the embedding besides. It runs after the deny
rules and before everything else, so that nothing outvotes it. A class of findings has one action:

- ``allow``: they are only recorded.
- ``guard``: the request gets a label, and only models that are cleared for it may answer (``clearance``).
- ``redact``: they are replaced in the body, unless every model that the request could reach is cleared.
- ``refuse``: the request is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec

from extproc.routing.rules import Condition, Reading, passages_of
from extproc.routing.safety_head import SafetyHead
from extproc.safety.findings import Finding, apart
from extproc.safety.known_templates import known_template
from extproc.safety.part_joins import readings_of
from extproc.safety.redaction import allowed_by, identity
from extproc.safety.text_folding import folded
from extproc.safety.text_scan import findings_in
from extproc.vocabulary import Embedding, Question, SafetyAction, Scope

SECRET: Final = "secret"  # noqa: S105 - the kind that no pattern of harmless values excuses
TEMPLATE: Final = "template"  # the kind of a known template of an attack


class SafetyClass(msgspec.Struct, frozen=True):
    """Kinds of findings with a common action."""

    name: str  # pii or secrets
    kinds: frozenset[str]
    action: SafetyAction
    label: str = ""  # that the request gets, or that models must be cleared for to read what is not redacted

    def among(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Those that are of this class."""
        return (each for each in findings if each.kind in self.kinds)


class SafetyPolicy(msgspec.Struct, frozen=True):
    """Which texts are read for what."""

    classes: tuple[SafetyClass, ...]
    reads: Scope
    patterns: tuple[str, ...] = ()  # shell patterns of values that are harmless
    exempt: Condition | None = None  # of requests that are not read; None: all are
    refuses_by_answer: bool = False  # whether a refusal looks like a model's
    head: SafetyHead | None = None  # None: nothing is embedded for safety
    of_head: tuple[SafetyClass, ...] = ()  # the head's classes, each with itself as its one kind

    def inspect(self, question: Question) -> "SafetyVerdict":
        """What was found, and what has to be done about it."""
        if self.exempt is not None and self.exempt(Reading(question)):
            return EXEMPT
        kinds = frozenset[str]().union(*(each.kinds for each in self.classes))
        allowed = allowed_by(self.patterns)
        values: dict[str, set[str]] = {}
        for text in chain.from_iterable(map(readings_of, passages_of(question, self.reads))):
            every = findings_in(text)
            # Class by class, so that a finding of a mild class cannot hide one of a strict class in it.
            for finding in chain.from_iterable(apart(each.among(every)) for each in self.classes):
                value = text[finding.start : finding.end]
                if finding.kind == SECRET or not allowed(value):
                    values.setdefault(finding.kind, set()).add(identity(value))
            if TEMPLATE in kinds and (name := known_template(folded(text))):
                values.setdefault(TEMPLATE, set()).add(name)
        found = {kind: len(distinct) for kind, distinct in values.items()}
        return SafetyVerdict(found, tuple(each for each in self.classes if not each.kinds.isdisjoint(found)))

    def judge(self, verdict: "SafetyVerdict", embeddings: Sequence[Embedding]) -> "SafetyVerdict":
        """``verdict`` with what the head finds in the pieces of the request (``safety_head.pieces_of``)."""
        assert self.head is not None
        found = self.head.probabilities(embeddings)
        above = self.head.above(found)
        return SafetyVerdict(
            found={**verdict.found, **dict.fromkeys(above, 1)},
            classes=(*verdict.classes, *(each for each in self.of_head if each.name in above)),
            scores=dict(zip(self.head.classes, map(float, found), strict=True)),
        )


class SafetyVerdict(msgspec.Struct, frozen=True):
    """What was found in one request."""

    found: Mapping[str, int] = {}  # how often, by kind; a class of the head once
    classes: tuple[SafetyClass, ...] = ()  # with at least one finding
    scores: Mapping[str, float] = {}  # the head's probability of each class
    exempt: bool = False  # whether the request was not looked at

    def of(self, action: SafetyAction) -> Iterator[SafetyClass]:
        """The classes with this action."""
        return (each for each in self.classes if each.action is action)

    @property
    def action(self) -> str:
        """The strictest action; empty if nothing was found."""
        order = list(SafetyAction)
        return max((each.action for each in self.classes), key=order.index, default="")

    @property
    def listed(self) -> tuple[str, ...]:
        """As records have it: "kind:number"."""
        return tuple(f"{kind}:{number}" for kind, number in sorted(self.found.items()))


NOTHING_FOUND = SafetyVerdict()
EXEMPT = SafetyVerdict(exempt=True)

"""Clearance: which models may answer a request that carries labels.

A label says that a request's content is special, such as ``pii`` or ``eu-only``. Rules give labels, and so
does a trusted header. A model is cleared for some labels. It may answer a request only if it is cleared for
all of the request's labels. Nothing outvotes this: no pin, no rule, no score, no fallback and no default.

For Envoy, which chooses the models of a chain by itself, a set of labels becomes a *clearance*: all the
labels for which the same models are cleared. So one route per clearance is enough, whatever labels are
combined.
"""

from collections.abc import Iterable, Mapping

import msgspec

from extproc.routing.model_choice import Target
from extproc.routing.rules import CompiledRule, Reading
from extproc.vocabulary import ModelName, Question

Labels = frozenset[str]
ClearedFor = Mapping[ModelName, Labels]

NO_LABELS: Labels = frozenset()
LONGEST_LABEL = 64  # characters
SEPARATOR = "+"  # between the labels of a clearance; no label contains it


class ClearancePolicy(msgspec.Struct, frozen=True):
    """What gives labels to requests, and the labels that each model is cleared for."""

    cleared_for: ClearedFor
    rules: tuple[CompiledRule, ...] = ()  # each that holds adds its labels
    header: str = ""  # a trusted header with labels, in lower case; empty: none
    defaults: tuple[Target, ...] = ()  # answer in place of a default that is not cleared, in this order

    def labels_of(self, question: Question) -> Labels:
        """The labels of a request. Raises what a rule raises."""
        reading = Reading(question)
        found = {label for rule in self.rules if rule.holds(reading) for label in rule.labels}
        return frozenset(found) | written_labels(question.head.headers.get(self.header, ""))

    def admits(self, model: ModelName, labels: Labels) -> bool:
        """Whether the model may answer a request with these labels."""
        return labels <= self.cleared_for.get(model, NO_LABELS)

    def clearance_of(self, labels: Labels) -> str:
        """What Envoy gets for these labels; empty: there are no labels, or no model is cleared for all."""
        return clearance_of(self.cleared_for, labels)


def written_labels(header: str) -> Labels:
    """The labels in the value of a header: a list with commas."""
    return frozenset(label for part in header.split(",") if (label := part.strip()))


def clearance_of(cleared_for: ClearedFor, labels: Labels) -> str:
    """All the labels that every model cleared for ``labels`` is cleared for, as one text."""
    if not labels:
        return ""
    admitted = [cleared for cleared in cleared_for.values() if labels <= cleared]
    return SEPARATOR.join(sorted(frozenset.intersection(*admitted))) if admitted else ""


def clearances(cleared_for: ClearedFor) -> Mapping[str, frozenset[ModelName]]:
    """Every clearance that some labels have, with the models that may answer.

    These are the intersections of any of the models' sets of labels.
    """
    closed: set[Labels] = set()
    for cleared in cleared_for.values():
        closed |= {cleared & other for other in closed} | {cleared}
    return {
        SEPARATOR.join(sorted(labels)): frozenset(
            model for model, cleared in cleared_for.items() if labels <= cleared
        )
        for labels in sorted(closed, key=sorted)
        if labels
    }


def labels_in(clearance: str) -> Labels:
    """The labels of a clearance, as Envoy passes it on."""
    return frozenset(clearance.split(SEPARATOR)) if clearance else NO_LABELS


def only_cleared(targets: Iterable[Target], policy: ClearancePolicy, labels: Labels) -> tuple[Target, ...]:
    """The targets that may answer a request with these labels, in their order."""
    return tuple(target for target in targets if policy.admits(target.model, labels))

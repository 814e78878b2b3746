"""What was found in a text, and where."""

from collections.abc import Iterable

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """Personal data or a secret: the characters [start, end) of a text."""

    kind: str  # one of ``text_scan.KINDS``
    start: int
    end: int
    detail: str = ""  # which national number, or whose secret


def apart(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings in order, without those that a longer one overlaps. Among equals, the first given."""
    kept: list[Finding] = []
    for each in sorted(findings, key=lambda found: (found.start, found.start - found.end)):
        if not kept or each.start >= kept[-1].end:
            kept.append(each)
        elif each.end - each.start > kept[-1].end - kept[-1].start:
            kept[-1] = each
    return tuple(kept)

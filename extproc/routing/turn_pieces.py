"""Splits a user's turn into the pieces of which one may be the question: sentences, lines and labelled parts.

The marks that people and programs put around a document are read as marks: code fences, tags, quotations,
headings, labels such as `Question:`, and the keys of a JSON object.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

READ = 16_384  # characters of a turn that are split: the first and the last half of a longer one
MOST = 24  # sentences read: the first and the last half of a longer turn
LONGEST = 400  # characters of a piece; of a longer one the beginning is read
SHORT = 40  # words of a turn that is usually no more than the question
UNMARKED = 24  # words of a sentence that may hold a question and one end of a document
WINDOWS = (6, 10, 16)  # words

# What a piece gains where people put the question. The unit is a cosine; chosen on CLINC150 with documents
# before and after the question, see benchmarks/RESULTS.md.
AT_AN_END = 0.2
NEXT_TO_AN_END = 0.1
ASKED = 0.4  # labelled as the question
WHOLE = 0.1  # so that a short turn of several sentences stays one text

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*")
_FENCE = re.compile(r"^\s*(?:```|~~~|\"\"\"|''')")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)[^<>]*>")
_QUOTED = re.compile(r"^\s*(?:>|\|)")
_BULLET = re.compile(r"^\s*(?:[-*+\u2022]|\d+[.)])\s+")
_HEADING = re.compile(r"^\s*#{1,6}\s+(.*)$")
_LABEL = re.compile(r"^\s*[*_]{0,2}([A-Za-z]+(?: [A-Za-z]+)?)[*_]{0,2}:[*_]{0,2}(?:\s+|$)")
_ASKS = re.compile(r"(?i)\b(?:question|query|prompt|instruction|task|request)\b")
_Placed = tuple["_Line", int, int]  # a line, and the depths of it from either end
_GAINS = (AT_AN_END, NEXT_TO_AN_END)  # by the number of lines before or after
_FEW_WORDS = 2  # of a line that greets, signs or heads


class Piece(msgspec.Struct, frozen=True):
    """A part of a turn that is compared as a whole."""

    text: str
    part: str  # whole, first, last, inner or labelled
    gain: float = 0.0


class _Line(msgspec.Struct, frozen=True):
    text: str
    quoted: bool = False  # within a fence, a tag or a quotation
    asked: bool = False  # labelled as the question

    @property
    def aside(self) -> bool:
        """Whether it may greet, sign, head or announce beside the question: it takes no place from it."""
        return self.text.endswith((":", ",")) or len(self.text.split()) <= _FEW_WORDS


def pieces(text: str) -> list[Piece]:
    """The whole turn first, then its parts where it has several."""
    whole = Piece(text, "whole", WHOLE)
    ends = [text] if len(text) <= READ else [text[: READ // 2], text[-READ // 2 :]]
    lines = (_lines_of_json(text) if len(ends) == 1 else []) or [line for end in ends for line in _lines(end)]
    if len(ends) > 1 or len(text.split()) > SHORT:
        return [whole, *_long(lines)]
    if len(lines) < 2:
        return [whole]
    places = ["first", *["inner"] * (len(lines) - 2), "last"]
    return [whole, *(Piece(line.text, place) for line, place in zip(lines, places, strict=True))]


def _long(lines: Sequence[_Line]) -> Iterator[Piece]:
    """The parts of a long turn, with what each gains by its place or its label."""
    from_start, from_end = _depths(lines), _depths(lines[::-1])[::-1]
    for line, start, end in _both_ends(list(zip(lines, from_start, from_end, strict=True))):
        depth = min(start, end)
        if line.asked:
            yield Piece(line.text[:LONGEST], "labelled", ASKED)
            continue
        place = "first" if depth == start < len(_GAINS) else "last" if depth < len(_GAINS) else "inner"
        gain = 0.0 if place == "inner" else NEXT_TO_AN_END if line.aside else _GAINS[depth]
        yield Piece(line.text[:LONGEST], place, gain)
        words = line.text.split()
        if len(words) > UNMARKED and start == 0:
            yield from (Piece(" ".join(words[:size]), "first", AT_AN_END) for size in WINDOWS)
        if len(words) > UNMARKED and end == 0:
            yield from (Piece(" ".join(words[-size:]), "last", AT_AN_END) for size in WINDOWS)


def _depths(lines: Sequence[_Line]) -> list[int]:
    """How many lines that could be the question come before each; quoted lines are beyond all places."""
    depths, passed = [], 0
    for line in lines:
        depths.append(len(_GAINS) if line.quoted else passed)
        passed += not (line.quoted or line.aside)
    return depths


def _both_ends(lines: Sequence[_Placed]) -> Sequence[_Placed]:
    return lines if len(lines) <= MOST else [*lines[: MOST // 2], *lines[-MOST // 2 :]]


def _lines_of_json(text: str) -> list[_Line]:
    """The sentences of a JSON object's texts; empty for anything else."""
    if not text.lstrip().startswith("{"):
        return []
    try:
        found = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    texts = [(key, value) for key, value in found.items() if isinstance(value, str)]
    return [
        _Line(line.text, quoted=line.quoted, asked=bool(_ASKS.search(key)))
        for key, value in texts
        for line in islice(_lines(value), MOST)
    ]


def _lines(text: str) -> Iterator[_Line]:
    fenced, tags, asked = False, 0, False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
            continue
        if heading := _HEADING.match(line):
            asked = bool(_ASKS.search(heading[1]))
            continue
        named, bare = False, _TAG.sub(" ", line)
        for closing, name in _TAG.findall(line):
            named = named or bool(_ASKS.fullmatch(name))
            tags = max(0, tags + (-1 if closing else 1))
        if label := _LABEL.match(bare):
            named = named or bool(_ASKS.search(label[1]))
            asked = False
            bare = bare[label.end() :]
            asked = asked or (named and not bare.strip())
        quoted = fenced or (tags > 0 and not named) or bool(_QUOTED.match(bare))
        for sentence in _SENTENCE_END.split(_BULLET.sub("", bare)):
            if any(letter.isalnum() for letter in sentence):
                yield _Line(sentence.strip(), quoted, asked or named)

"""Corrects misspelt words before a text is embedded.

An encoder splits a misspelt word into fragments that mean something else. A word that neither the encoder's
vocabulary nor the examples know is replaced by the known word one edit away: a letter missing, doubled,
wrong, or swapped with its neighbour (Damerau, 1964). Words of the examples come first, then frequent words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_SHORTEST = 4  # letters of a word that is corrected; of a shorter one too many words are one edit away
_LONGEST = 20
_MOST_CHARS = 400  # of a text that is corrected: a question, not a document
_MOST_UNKNOWN = 8  # words of a text that is corrected, which bounds the time that a hostile one takes
_KNOWN_SHARE = 0.5  # of a text's words that must be known, or it is in another language


class Speller:
    """The words of one version's examples and of the encoder's vocabulary."""

    def __init__(self, vocabulary: Mapping[str, int], examples: Sequence[str]) -> None:
        """``vocabulary`` has the rank of each word, the most frequent first."""
        self._vocabulary = vocabulary
        self._examples = Counter(word.lower() for text in examples for word in _WORD.findall(text))

    def correct(self, text: str) -> tuple[str, int]:
        """The text with its misspelt words corrected, and how many there were."""
        if len(text) > _MOST_CHARS:
            return text, 0
        words = list(_WORD.finditer(text))
        unknown = [match for match in words if not self._knows(match[0].lower())]
        if not 0 < len(unknown) <= _MOST_UNKNOWN or len(unknown) > (1 - _KNOWN_SHARE) * len(words):
            return text, 0
        parts, end, corrected = [], 0, 0
        for match in unknown:
            word = self._corrected(match[0])
            corrected += word != match[0]
            parts += [text[end : match.start()], word]
            end = match.end()
        return "".join([*parts, text[end:]]), corrected

    def _knows(self, word: str) -> bool:
        return word in self._vocabulary or word in self._examples

    def _corrected(self, word: str) -> str:
        lower = word.lower()
        if not _SHORTEST <= len(word) <= _LONGEST or word not in (lower, lower.capitalize()):
            return word  # a name in capitals or an identifier
        found = max(_edits(lower), key=self._merit)
        return found if self._merit(found) > (0, 0) else word

    def _merit(self, word: str) -> tuple[int, int]:
        """Orders candidates; (0, 0) or less for an unknown word."""
        if count := self._examples.get(word, 0):
            return (2, count)
        rank = self._vocabulary.get(word)
        return (0, 0) if rank is None or len(word) < _SHORTEST - 1 else (1, -rank)


def _edits(word: str) -> Iterator[str]:
    """Every string one edit away, in a fixed order."""
    for place in range(len(word) + 1):
        before, after = word[:place], word[place:]
        if after:
            yield before + after[1:]
        if len(after) > 1:
            yield before + after[1] + after[0] + after[2:]
        for letter in _LETTERS:
            yield before + letter + after
            if after:
                yield before + letter + after[1:]

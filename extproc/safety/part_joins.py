"""How a model may read a text that came in several parts: a value can be split over them."""

from collections.abc import Iterator, Sequence

_SPLIT = 8  # parts over which a value is looked for
_REACH = 256  # characters of a part, on each side of a border, in which a split value is looked for


def readings_of(parts: Sequence[str]) -> Iterator[str]:
    """The parts on lines of their own, and joined by nothing around each border.

    Around a border the text begins at the part itself, so that what stands before it hides nothing. Linear in
    the size of the parts.
    """
    yield "\n".join(parts)
    for first in range(len(parts) - 1):
        following = (part[:_REACH] for part in parts[first + 1 : first + _SPLIT])
        yield "".join((parts[first][-_REACH:], *following))

"""What all sections of a registry share: they refuse unknown keys, and numbers have bounds."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

OneOrMany = str | list[str]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Points = Annotated[float, Meta(ge=0.0, le=100.0)]  # percentage points
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the registry. It refuses unknown keys.

    ``example`` is what an error message shows as a correct value.
    """

    example: ClassVar[str] = ""


def many(value: OneOrMany) -> list[str]:
    """The value of a key that takes one text or a list of texts, as a list."""
    return [value] if isinstance(value, str) else value

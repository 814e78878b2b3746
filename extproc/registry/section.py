"""What every section of a registry shares: unknown keys are refused, and values are bounded."""

from typing import Annotated

import msgspec
from msgspec import Meta

OneOrMany = str | list[str]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Points = Annotated[float, Meta(ge=0.0, le=100.0)]  # of a hundred
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the registry; unknown keys in it are an error."""


def many(value: OneOrMany) -> list[str]:
    """A key that takes one text or a list of them, as a list."""
    return [value] if isinstance(value, str) else value

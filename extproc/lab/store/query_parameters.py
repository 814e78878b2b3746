"""Values of a query's parameters, as ClickHouse reads them."""

from collections.abc import Mapping

Parameters = Mapping[str, str | int | float]


def as_parameters(values: Parameters | None) -> dict[str, str]:
    """By name; texts with its escapes."""
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t"})
    return {name: str(value).translate(escapes) for name, value in (values or {}).items()}

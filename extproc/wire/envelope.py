"""``Envelope`` <-> the ``google.protobuf.Struct`` that Envoy carries as dynamic metadata.

Writing is on the path of every decision. Reading takes what any version of the sidecar, or
another filter that writes to the same namespace, may have left there.

What is only observed stands in a struct of its own, ``observed``, below the mode: nothing in Envoy
that looks for a decision, the headers of the answer first of all, takes it for one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from google.protobuf.struct_pb2 import Struct, Value

from extproc.exchanges import Envelope
from extproc.vocabulary import Mode

NAMESPACE = "router"  # of the dynamic metadata
OBSERVED = "observed"  # in it: what would have been done

_EXACT = 2**53  # JSON numbers, and so Struct's, are doubles: integers beyond this are not themselves


def write(envelope: Envelope, struct: Struct) -> None:
    """Write ``envelope`` into ``struct``; fields at their defaults are left out.

    Field by field, because ``Struct.update`` takes nearly twice the time.
    """
    fields = struct.fields
    # Always there, or a later version's default would change what this one wrote.
    fields["schema"].number_value = envelope.schema
    fields["mode"].string_value = envelope.mode
    if envelope.mode == Mode.OBSERVE:
        fields = fields[OBSERVED].struct_value.fields
    for name, value in msgspec.to_builtins(envelope).items():
        kind = type(value)
        if kind is str:
            fields[name].string_value = value
        elif kind is bool:
            fields[name].bool_value = value
        elif kind is tuple:
            fields[name].list_value.extend(value)
        else:
            fields[name].number_value = value


def read(struct: Struct) -> Envelope:
    """The envelope in ``struct``; a field that is absent or of the wrong type has its default."""
    found = _found(struct)
    if found.get("mode") == Mode.OBSERVE and OBSERVED in struct.fields:
        found = _found(struct.fields[OBSERVED].struct_value) | found
    return Envelope(**found)


def _found(struct: Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in struct.fields.items():
        reader = _READERS.get(name)
        if reader is not None and (content := reader(value)) is not None:
            found[name] = content
    return found


def _text(value: Value) -> str | None:
    return value.string_value if value.HasField("string_value") else None


def _texts(value: Value) -> tuple[str, ...] | None:
    return tuple(item.string_value for item in value.list_value.values) or None


def _flag(value: Value) -> bool | None:
    return value.bool_value if value.HasField("bool_value") else None


def _number(value: Value) -> float | None:
    number = value.number_value if value.HasField("number_value") else math.nan
    return number if math.isfinite(number) else None


def _integer(value: Value) -> int | None:
    number = _number(value)
    return int(number) if number is not None and abs(number) < _EXACT else None


_READER_OF_TYPE: Mapping[Any, Callable[[Value], Any]] = {
    str: _text,
    str | None: _text,
    tuple[str, ...]: _texts,
    bool: _flag,
    bool | None: _flag,
    int: _integer,
    int | None: _integer,
    float | None: _number,
}
_READERS = {
    field.name: _READER_OF_TYPE[getattr(field.type, "__supertype__", field.type)]
    for field in msgspec.structs.fields(Envelope)
}

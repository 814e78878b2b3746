"""What betterproto2 works out about a class of messages is worked out once."""

import betterproto2
import pydantic_core
import pytest
from envoy_data_plane.envoy.config.core.v3 import HeaderValue
from envoy_data_plane.envoy.type.v3 import Int32Range

from extproc.envoyconf.typed_config import plain


def test_hints_and_validator_of_a_class_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, resolved = [], []
    validator, hints = pydantic_core.SchemaValidator, betterproto2.get_type_hints

    def compiling(schema: pydantic_core.CoreSchema) -> pydantic_core.SchemaValidator:
        compiled.append(schema)
        return validator(schema)

    def resolving(kind: type, *namespaces: dict[str, object]) -> dict[str, object]:
        resolved.append(kind)
        return hints(kind, *namespaces)

    monkeypatch.setattr(pydantic_core, "SchemaValidator", compiling)
    monkeypatch.setattr(betterproto2, "get_type_hints", resolving)
    for number in (1, 2, 3):
        assert plain(Int32Range(start=number, end=9)) == {"start": number, "end": 9}
    assert len(compiled) <= 1
    assert resolved.count(Int32Range) <= 1


def test_a_value_is_checked_each_time() -> None:
    header = HeaderValue(key="a", value="b")
    for wrong in (7, None):
        header.value = wrong  # type: ignore[assignment]
        with pytest.raises(ValueError, match="string"):
            plain(header)
        header.value = "b"
        assert plain(header) == {"key": "a", "value": "b"}

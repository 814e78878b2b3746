import pytest

from extproc.errors import RegistryError
from extproc.registry.yaml_source import Source


def test_every_value_remembers_its_line() -> None:
    source = Source("r.yaml", "a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert source.value == {"a": 1, "b": ["x", {"c": 2}]}
    assert [source.line("a"), source.line("b"), source.line("b", 1, "c")] == [1, 2, 4]


def test_an_unknown_path_has_the_line_of_its_closest_ancestor() -> None:
    source = Source("r.yaml", "a: 1\nb:\n  c: 2\n")
    assert source.line("b", "missing", 3) == 2


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: [1\nb: 2", 2, "invalid YAML"),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is already given on line 1"),
        ("- a", 1, "expected a mapping"),
        ("", 1, "expected a mapping"),
        ("a: &x\n  b: *x", 2, "an alias contains itself"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, "merge keys"),
        ("a: 1\n? [b]\n: 2", 2, "expected a plain key"),
        ("a: 1\nb: !!python/object:os.system x", 2, "invalid YAML"),
        ("a: 1\nb: 2026-99-99", 2, "invalid YAML"),
        ("a: \x00", 1, "invalid YAML"),
        ("[" * 5000, 1, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_registry_is_rejected_with_the_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(RegistryError) as caught:
        Source("r.yaml", text)
    assert caught.value.line == line
    assert problem in caught.value.problem


def test_an_anchor_may_be_used_twice() -> None:
    assert Source("r.yaml", "a: &x [1]\nb: *x").value == {"a": [1], "b": [1]}

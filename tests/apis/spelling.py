"""JSON as clients may write it: any values, in any of the spellings that the grammar allows."""

import json
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

# What clients send is the way in: it is worth more examples than most.
thorough = settings(max_examples=300)

styles = st.integers(0, 2**32).map(Random)
keys = st.one_of(st.sampled_from(["model", "Model", "messages", "x"]), st.text(max_size=6))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)
names = st.one_of(
    st.sampled_from(["auto", "model", '"model"', "{}", "gpt-4o"]), st.text(min_size=1, max_size=8)
)


def escape(character: str) -> str:
    """The character as JSON escapes of its UTF-16 code units."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def spelled(value: Any, style: Random) -> str:
    """One of the many ways to write a value as JSON: order of keys, whitespace, escapes or raw UTF-8."""
    before, after = ("".join(style.choices(" \t\r\n", k=style.choice((0, 0, 1, 2)))) for _ in range(2))
    if isinstance(value, str):
        plain = (json.dumps(character, ensure_ascii=False)[1:-1] for character in value)
        escapes = style.choice((0.0, 0.3, 1.0))
        written = (escape(c) if style.random() < escapes else p for c, p in zip(value, plain, strict=True))
        text = f'"{"".join(written)}"'
    elif isinstance(value, list):
        text = f"[{before}{','.join(spelled(item, style) for item in value)}]"
    elif isinstance(value, dict):
        members = style.sample(list(value.items()), len(value))
        text = f"{{{before}{','.join(f'{spelled(k, style)}:{spelled(v, style)}' for k, v in members)}}}"
    else:
        text = json.dumps(value)
    return f"{before}{text}{after}"

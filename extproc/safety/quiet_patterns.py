"""Compiles RE2 patterns without RE2's own log lines, because the caller reports what is wrong."""

import re2


def compiled(pattern: str, max_mem: int | None = None) -> "re2._Regexp":
    """The pattern, with at most ``max_mem`` bytes for its automata (default: RE2's own).

    A pattern that outgrows them is searched more slowly, with the same result. Raises ``re2.error`` on a bad
    pattern.
    """
    options = re2.Options()
    options.log_errors = False
    if max_mem is not None:
        options.max_mem = max_mem
    return re2.compile(pattern, options)

"""Error messages for features whose packages are not installed."""

import re
import shlex
from importlib import metadata

from extproc.errors import OperatorError

_DISTRIBUTION = "envoy-semantic-router"


def needed(what: str, missing: ImportError, extra: str) -> str:
    """The message that ``what`` needs a package of ``extra``, with the command that installs it."""
    return f"{what} needs {missing.name or missing}: {install_command(extra)}"


def install_command(extra: str) -> str:
    """The command that adds ``extra``'s packages to this installation.

    It lists the packages with their versions, because this project is not in a package index.
    Raises ``OperatorError`` for an extra that the project does not have.
    """
    of_extra = re.compile(rf"(.+?)\s*;\s*extra == ['\"]{re.escape(extra)}['\"]")
    found = [of_extra.fullmatch(each) for each in metadata.requires(_DISTRIBUTION) or []]
    packages = [shlex.quote(match[1]) for match in found if match]
    if not packages:
        raise OperatorError(f"{_DISTRIBUTION} has no extra named {extra!r}")
    return " ".join(["pip install", *packages])

"""What tests of supervision and of the runner both need."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Is this the id of a process that has not ended? A zombie, unreaped by its new parent, has."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return look

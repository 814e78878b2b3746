"""The directory of Envoy's filesystem xDS: every file is replaced as a whole, none is changed in place.

Envoy notices a rename, and nothing else.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from extproc.errors import OperatorError

STATUS = "status.json"


class Directory:
    """Files by name in one directory, which is made for its owner alone when absent."""

    def __init__(self, path: Path) -> None:
        """``path`` is absolute. Raises ``OperatorError`` when it cannot be written to."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from error

    def texts(self) -> dict[str, str]:
        """The text of every file that Envoy may read."""
        return {
            path.name: path.read_text()
            for path in self.path.iterdir()
            if path.suffix in (".json", ".yaml") and path.name != STATUS and not path.name.startswith(".")
        }

    def write(self, name: str, text: str) -> None:
        """Replace one file. Raises ``OperatorError``."""
        try:
            descriptor, made = tempfile.mkstemp(prefix=".", suffix=".part", dir=self.path)  # mode 0600
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            os.replace(made, self.path / name)
        except OSError as error:
            raise OperatorError(f"{self.path / name}: {error.strerror}") from error

    def write_all(self, texts: Mapping[str, str]) -> None:
        """Replace files in this order; one that says the same already is left alone."""
        present = self.texts()
        for name, text in texts.items():
            if present.get(name) != text:
                self.write(name, text)

    def remove(self, name: str) -> None:
        """Remove one file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def tell(self, text: str) -> None:
        """Replace the status file, which is for operators and not for Envoy."""
        self.write(STATUS, text)

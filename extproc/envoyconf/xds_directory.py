"""The directory of Envoy's filesystem xDS. Files are replaced by a rename, because Envoy notices only that.

If the directory is temporarily absent or its disk is full, methods raise ``NotYet``, and the writer retries.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from extproc.errors import NotYet, OperatorError

STATUS = "status.json"
_PART = ".part"


class Directory:
    """Files by name in one directory. An absent directory is created with access for its owner only."""

    def __init__(self, path: Path) -> None:
        """``path`` is absolute. Raises ``OperatorError`` if it cannot be written to."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in path.glob(f".*{_PART}"):  # from a writer that was killed
                left.unlink(missing_ok=True)
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from error

    def texts(self) -> dict[str, str]:
        """The text of every file that Envoy may read. Raises ``NotYet``."""
        with _retryable(self.path):
            return {
                path.name: path.read_text(errors="replace")
                for path in self.path.iterdir()
                if path.suffix in (".json", ".yaml") and path.name != STATUS and not path.name.startswith(".")
            }

    def write(self, name: str, text: str) -> None:
        """Replace one file. Raises ``NotYet``, and then the file is as before."""
        with _retryable(self.path / name):
            descriptor, made = tempfile.mkstemp(prefix=".", suffix=_PART, dir=self.path)  # mode 0600
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                os.replace(made, self.path / name)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(made)
                raise

    def write_all(self, texts: Mapping[str, str]) -> None:
        """Replace files in this order, except those that do not change. Raises ``NotYet``."""
        present = self.texts()
        for name, text in texts.items():
            if present.get(name) != text:
                self.write(name, text)

    def remove(self, name: str) -> None:
        """Remove one file, if it exists. Raises ``NotYet``."""
        with _retryable(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def report(self, text: str) -> None:
        """Replace the status file, which operators read and Envoy does not. Raises ``NotYet``.

        On a full disk, which has no space for a second file, the present one is changed in place.
        """
        try:
            self.write(STATUS, text)
        except NotYet:
            with _retryable(self.path / STATUS), (self.path / STATUS).open("r+") as file:
                file.write(text)
                file.truncate()


@contextlib.contextmanager
def _retryable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotYet(f"{path}: {error.strerror}") from error

"""Opinions from a file, such as users' feedback, into rows: what `extproc feedback import` reads.

A line is a JSON object, an ``Feedback``. The same line twice is one opinion.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from extproc.errors import OperatorError
from extproc.telemetry.feedback_rows import Feedback, row_of
from extproc.telemetry.rows import EvaluationRow


def read(path: Path, now: datetime) -> Iterator[EvaluationRow]:
    """The rows of a file of JSON lines.

    Raises:
        OperatorError: a line cannot be used: ``file:line: what is wrong``.
    """
    decode = msgspec.json.Decoder(Feedback).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield row_of(decode(line), now)
                    except (ValueError, msgspec.MsgspecError) as error:
                        raise OperatorError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error

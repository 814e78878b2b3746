"""What a model answered: the frozen types that gates judge, and the draft that readers fill.

The draft bounds what is kept of an answer.
"""

from enum import StrEnum
from typing import Final

import msgspec

ANSWER_LIMIT: Final = 262_144
"""Characters of an answer's texts, of each kind; an answer that has more is not ``complete``."""


class Finish(StrEnum):
    """Why a model stopped, by the same words for every API."""

    UNKNOWN = ""  # not reported, or not stopped yet
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"


class ToolCall(msgspec.Struct, frozen=True):
    """One call of a tool by the model."""

    name: str
    arguments: str  # JSON text as the model wrote it; may be cut off


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered, or the beginning of it."""

    text: str = ""
    refusal: str = ""  # if the API reports it apart from the text
    finish: Finish = Finish.UNKNOWN
    tool_calls: tuple[ToolCall, ...] = ()
    mean_logprob: float | None = None  # natural logarithm, over the tokens that came with one
    complete: bool = True  # False: it is a beginning, or longer than ANSWER_LIMIT
    failed: bool = False  # the provider reports an error in a 200, or the body is not an answer of its API
    status: int = 200  # of the HTTP answer
    output_tokens: int | None = None


# --- While it is read ---------------------------------------------------------------------------

_CALLS_LIMIT = 128  # as many as any provider allows


class Text:
    """A text that comes in pieces. At most ``ANSWER_LIMIT`` characters are kept."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._room = ANSWER_LIMIT
        self.cut = False  # whether some of it was dropped

    @property
    def size(self) -> int:
        """Characters that are kept."""
        return ANSWER_LIMIT - self._room

    def add(self, piece: str | None) -> None:
        """Appends ``piece``."""
        if not piece:
            return
        if len(piece) > self._room:
            self.cut = True
            piece = piece[: self._room]
        self._room -= len(piece)
        if piece:
            self._pieces.append(piece)

    def __str__(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


class _Call:
    def __init__(self) -> None:
        self.name = Text()
        self.arguments = Text()


class Draft:
    """What has been read of an answer."""

    def __init__(self) -> None:
        self.text = Text()
        self.refusal = Text()
        self.finish = Finish.UNKNOWN
        self.done = False  # the provider said that the answer is complete
        self.failed = False
        self.output_tokens: int | None = None
        self._calls: dict[int, _Call] = {}
        self._more_calls = False
        self._logprobs = 0.0
        self._rated = 0  # tokens that came with a log-probability

    @property
    def calls_tools(self) -> bool:
        """Whether the model calls any tool."""
        return bool(self._calls)

    def call(self, index: int, name: str | None = None, arguments: str | None = None) -> None:
        """Adds to the tool call with this ``index`` of the API."""
        if index not in self._calls:
            if len(self._calls) == _CALLS_LIMIT:
                self._more_calls = True
                return
            self._calls[index] = _Call()
        self._calls[index].name.add(name)
        self._calls[index].arguments.add(arguments)

    def add_arguments(self, index: int, piece: str | None) -> None:
        """Adds to a call that has begun. Arguments of other kinds of blocks are ignored."""
        if index in self._calls:
            self._calls[index].arguments.add(piece)

    def logprob(self, value: float | None) -> None:
        """Counts the log-probability of one token. The first token of a text has none."""
        if value is not None and value <= 0.0:
            self._logprobs += max(value, -1e4)  # servers write -9999 or -inf for what they do not know
            self._rated += 1

    def answer(self, status: int) -> ModelAnswer:
        """The answer as it stands."""
        calls = [call for _, call in sorted(self._calls.items())]
        texts = [self.text, self.refusal, *(part for call in calls for part in (call.name, call.arguments))]
        return ModelAnswer(
            text=str(self.text),
            refusal=str(self.refusal),
            finish=self.finish,
            tool_calls=tuple(ToolCall(str(call.name), str(call.arguments)) for call in calls),
            mean_logprob=self._logprobs / self._rated if self._rated else None,
            complete=self.done and not self._more_calls and not any(text.cut for text in texts),
            failed=self.failed,
            status=status,
            output_tokens=self.output_tokens,
        )

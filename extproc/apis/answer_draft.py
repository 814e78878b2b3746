"""An answer while it is read: the one place that bounds what is kept of it."""

from extproc.apis.model_answer import ANSWER_LIMIT, Finish, ModelAnswer, ToolCall

_CALLS_LIMIT = 128  # as many as any provider lets a model make


class Text:
    """A text that comes in pieces. At most ``ANSWER_LIMIT`` characters are kept."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._room = ANSWER_LIMIT
        self.cut = False  # whether more came than is kept

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
    """What is known of an answer so far."""

    def __init__(self) -> None:
        self.text = Text()
        self.refusal = Text()
        self.finish = Finish.UNKNOWN
        self.done = False  # the provider said that nothing more of the answer comes
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
        """Adds to the call of a tool that the API knows by ``index``."""
        if index not in self._calls:
            if len(self._calls) == _CALLS_LIMIT:
                self._more_calls = True
                return
            self._calls[index] = _Call()
        self._calls[index].name.add(name)
        self._calls[index].arguments.add(arguments)

    def add_arguments(self, index: int, piece: str | None) -> None:
        """Adds to a call that was begun; what belongs to another kind of block is left out."""
        if index in self._calls:
            self._calls[index].arguments.add(piece)

    def logprob(self, value: float | None) -> None:
        """Counts one token's; the first of a text has none."""
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

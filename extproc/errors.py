"""The drawn error tree. Each class says who sees it, what they get, and its metric label.

RouterError
├── ClientError            the client gets the API's own error, nothing is forwarded
│   ├── BadRequest         400: not what the API requires
│   ├── Denied             400, or 403 by the registry's choice: a deny rule matched
│   ├── UnknownModel       404: the registry routes only names it knows
│   ├── Unauthorized       401: feedback without the registry's token
│   ├── NoFeedback         404: feedback, of which the registry wants none
│   ├── TooLarge           413: more than anybody has to say
│   ├── Unavailable        503: feedback that could not be kept, or not now
│   └── TooBusy            503: a body that cannot be read now, where deny rules must read it
├── DecisionError          the client notices nothing: the default model answers
│   ├── DeadlineExceeded   the decision's time budget ran out
│   ├── Overloaded         the encoder would be late with it: shed at once
│   ├── EncoderFailed      the encoder raised
│   ├── PolicyFailed       a deny rule raised: nothing is decided
│   └── UnknownVersion     the asking Envoy holds a registry that is not here: Envoy's default answers
├── ProtocolError          the client notices nothing: Envoy's default answers, and the log says why
└── OperatorError          a command ends with it and exit status 1; no request is answered with it
    ├── RegistryError      a registry that cannot be used: file, line, what was expected
    │   └── HoldoutFailed  it routes its holdout too badly
    ├── DataError          a data set that cannot be used: file, line, what was expected
    ├── ArtefactUnusable   a trained artefact that is damaged, or not for this registry or encoder
    ├── EncoderMissing     the encoder's files are absent, damaged or another model's
    ├── EnvoyMissing       there is no Envoy to run
    ├── EnvoyRefused       Envoy does not accept its configuration
    ├── VersionRefused     a sidecar does not want to decide by a version of the registry
    ├── NotYet             what a change waits for did not come in time: it is tried again
    ├── ProcessFailed      a process that was started ended or did not become ready
    └── TaskFailed         a task of `extproc serve` died again and again: the process drains and ends
"""

from typing import ClassVar

from extproc.vocabulary import Reason


class RouterError(Exception):
    """The root of every error this project raises on purpose."""

    label: ClassVar[str] = "router_error"


class ClientError(RouterError):
    """The request cannot be served as sent. ``status`` is the HTTP status of the answer."""

    status: int
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadRequest(ClientError):
    """The body is not what the API requires."""

    status = 400
    label = "bad_request"


class Denied(ClientError):
    """A deny rule of the registry matched.

    The answer is what the API's own provider gives for a violation of its content policy: clients
    take a 403 for a wrong key, and some of them retry it.
    """

    status = 400
    label = "denied"
    code = "content_policy_violation"

    def __init__(self, message: str, *, rule: str, status: int = 400) -> None:
        super().__init__(message)
        self.rule = rule
        self.status = status


class UnknownModel(ClientError):
    """The registry says ``unknown_models: reject`` and does not know the name."""

    status = 404
    label = "unknown_model"
    code = "model_not_found"


class Unauthorized(ClientError):
    """Feedback came without the token that the registry names, or with another."""

    status = 401
    label = "unauthorized"
    code = "invalid_token"


class NoFeedback(ClientError):
    """Feedback came, and the registry has no ``feedback``."""

    status = 404
    label = "no_feedback"


class TooLarge(ClientError):
    """The body of a request that is no LLM call is larger than such a one may be."""

    status = 413
    label = "too_large"
    code = "request_too_large"


class Unavailable(ClientError):
    """What is asked for cannot be done now; the same request may succeed later."""

    status = 503
    label = "unavailable"
    code = "unavailable"


class TooBusy(ClientError):
    """The bytes in flight are at their limit, and deny rules must read the body before it goes on."""

    status = 503
    label = Reason.BYTES_IN_FLIGHT.value
    code = "overloaded"


class DecisionError(RouterError):
    """A stage could not finish; the default model answers, with ``reason`` on the record."""

    reason: ClassVar[Reason]


class DeadlineExceeded(DecisionError):
    """The decision's time budget ran out."""

    label = "deadline"
    reason = Reason.DEADLINE


class Overloaded(DecisionError):
    """The encoder would not be done in time, by its pace and its queue, or does not run: shed at once."""

    label = "overloaded"
    reason = Reason.OVERLOADED


class EncoderFailed(DecisionError):
    """The encoder raised on this input."""

    label = "encoder_error"
    reason = Reason.ENCODER_ERROR


class PolicyFailed(DecisionError):
    """A deny rule raised, so nobody knows whether the request may be answered: nothing is decided."""

    label = "policy_failed"
    reason = Reason.INTERNAL_ERROR


class UnknownVersion(DecisionError):
    """The asking Envoy holds a registry that this process does not have.

    Another version's decision could send a request to a provider under another model's name, so
    nothing is decided, and Envoy goes on by its own default.
    """

    label = "unknown_version"
    reason = Reason.UNKNOWN_VERSION


class ProtocolError(RouterError):
    """What came does not fit the exchange: Envoy is set up in a way the sidecar cannot serve."""

    label = "protocol"


class OperatorError(RouterError):
    """Something an operator must mend; the message says what and how."""

    label = "operator_error"


class RegistryError(OperatorError):
    """A registry that cannot be used.

    ``str(error)`` reads ``file:line: what is wrong (what was expected)``; line is 1-based, and None for a
    file that cannot be read. Of several mistakes it is the first, and says how many ``more`` there are.
    """

    label = "registry_error"

    def __init__(
        self, file: str, line: int | None, problem: str, more: "tuple[RegistryError, ...]" = ()
    ) -> None:
        at = file if line is None else f"{file}:{line}"
        rest = f" (and {len(more)} more; `extproc validate` prints all)" if more else ""
        super().__init__(f"{at}: {problem}{rest}")
        self.file = file
        self.line = line
        self.problem = problem
        self.more = more

    @property
    def each(self) -> "tuple[RegistryError, ...]":
        """Every mistake by itself, in the order of their lines."""
        return (RegistryError(self.file, self.line, self.problem), *self.more)


class HoldoutFailed(RegistryError):
    """A registry without a mistake that routes the rows of its ``holdout`` too badly to serve."""

    label = "holdout_failed"


class DataError(OperatorError):
    """A data set that cannot be used.

    ``str(error)`` reads ``file:line: what is wrong (what was expected)``; line is 1-based, and None for a
    file that cannot be read.
    """

    label = "data_error"

    def __init__(self, file: str, line: int | None, problem: str) -> None:
        at = file if line is None else f"{file}:{line}"
        super().__init__(f"{at}: {problem}")


class ArtefactUnusable(OperatorError):
    """A trained artefact that is absent, damaged, or made for other routes or another encoder."""

    label = "artefact_unusable"


class EncoderMissing(OperatorError):
    """The encoder's files are absent, damaged, or belong to another model."""

    label = "encoder_missing"


class EnvoyMissing(OperatorError):
    """There is no Envoy to run, or it does not start."""

    label = "envoy_missing"


class EnvoyRefused(OperatorError):
    """Envoy does not accept its configuration; the message has the file and Envoy's words."""

    label = "envoy_refused"


class VersionRefused(OperatorError):
    """A sidecar refuses a version of the registry, for good; the message has the sidecar's reason."""

    label = "version_refused"


class NotYet(OperatorError):
    """What a change of Envoy's configuration waits for did not come in time; it is tried again."""

    label = "not_yet"


class ProcessFailed(OperatorError):
    """A started process ended or did not become ready; the message ends with the last lines of its log."""

    label = "process_failed"


class TaskFailed(OperatorError):
    """A task that serving needs died too often; the message has its last error."""

    label = "task_failed"

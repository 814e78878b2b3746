"""The error tree. Each class says who sees it, what they get, and its metric label.

RouterError
├── ClientError            the client gets the API's own error, nothing is forwarded
│   ├── BadRequest         400: the body does not follow the API
│   ├── Denied             400, or `deny_status`: a deny rule matched
│   ├── Unsafe             400: the request contains personal data or a secret, and the registry refuses it
│   ├── NotCleared         400: no model that may answer is cleared for the request's labels
│   ├── UnknownModel       404: the model is not in the registry, and `unknown_models` is `reject`
│   ├── Unauthorized       401: feedback without the right token
│   ├── NoFeedback         404: feedback, but the registry has no `feedback`
│   ├── TooLarge           413: the body of a feedback request is too large
│   ├── Unavailable        503: feedback could not be stored; try again later
│   └── TooBusy            503: the sidecar must check the body, and too many bodies are in flight
├── DecisionError          the client gets an answer: the default model answers
│   ├── Overloaded         the encoder is too busy or does not run
│   ├── EncoderFailed      the encoder raised
│   ├── PolicyFailed       a rule that denies or labels raised: the sidecar decides nothing
│   └── UnknownVersion     Envoy uses a registry version that is not loaded here: Envoy's default answers
├── ProtocolError          the client gets an answer: Envoy's default answers, and the log has the reason
└── OperatorError          a command prints it and exits with status 1; no client sees it
    ├── RegistryError      the registry cannot be used: file, line, what was expected
    │   └── HoldoutFailed  the registry routes its holdout too badly
    ├── DataError          a data set cannot be used: file, line, what was expected
    ├── ArtefactUnusable   a trained artefact is damaged, or belongs to another registry or encoder
    ├── EncoderMissing     the encoder's files are absent, damaged, or belong to another model
    ├── EnvoyMissing       Envoy is not installed, or does not start
    ├── EnvoyRefused       Envoy does not accept its configuration
    ├── VersionRefused     a sidecar rejects a version of the registry
    ├── NotYet             a condition for a change did not hold in time: the change is retried
    ├── ProcessFailed      a started process ended or did not become ready
    └── TaskFailed         a task of `extproc serve` failed too often: the process drains and ends
"""

from typing import ClassVar

from extproc.vocabulary import Reason


class RouterError(Exception):
    """The root of every error this project raises on purpose."""

    label: ClassVar[str] = "router_error"


class ClientError(RouterError):
    """The request is rejected. ``status`` is the HTTP status of the answer."""

    status: int
    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadRequest(ClientError):
    """The body does not follow the API."""

    status = 400
    label = "bad_request"


class Denied(ClientError):
    """A deny rule of the registry matched.

    The default status is 400, as providers answer a violation of their content policy. Clients take a
    403 for a wrong key, and some of them retry it.
    """

    status = 400
    label = "denied"
    code = "content_policy_violation"

    def __init__(self, message: str, *, rule: str, status: int = 400) -> None:
        super().__init__(message)
        self.rule = rule
        self.status = status


class Unsafe(ClientError):
    """The request contains what the registry's ``safety`` refuses, such as a secret."""

    status = 400
    label = "unsafe"
    code = "content_policy_violation"

    def __init__(self, message: str, *, found: tuple[str, ...], rule: str, as_answer: bool = False) -> None:
        super().__init__(message)
        self.as_answer = as_answer  # does it look like a model's refusal, with status 200?
        self.found = found  # "kind:number"
        self.rule = rule  # the class: pii or secrets


class NotCleared(ClientError):
    """The request carries labels, and no model that could answer it is cleared for all of them."""

    status = 400
    label = "not_cleared"
    code = "not_cleared"

    def __init__(self, message: str, *, labels: frozenset[str], param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.labels = labels


class UnknownModel(ClientError):
    """The model is not in the registry, and ``unknown_models`` is ``reject``."""

    status = 404
    label = "unknown_model"
    code = "model_not_found"


class Unauthorized(ClientError):
    """Feedback came without the token of the registry, or with a wrong one."""

    status = 401
    label = "unauthorized"
    code = "invalid_token"


class NoFeedback(ClientError):
    """Feedback came, but the registry has no ``feedback``."""

    status = 404
    label = "no_feedback"


class TooLarge(ClientError):
    """The body of a request to the sidecar itself, such as feedback, is too large."""

    status = 413
    label = "too_large"
    code = "request_too_large"


class Unavailable(ClientError):
    """The request cannot be served now. The client may retry it."""

    status = 503
    label = "unavailable"
    code = "unavailable"


class TooBusy(ClientError):
    """The bytes in flight are at their limit, and the body must be checked before it goes on."""

    status = 503
    label = Reason.BYTES_IN_FLIGHT.value
    code = "overloaded"


class DecisionError(RouterError):
    """A stage could not finish; the default model answers, with ``reason`` on the record."""

    reason: ClassVar[Reason]


class Overloaded(DecisionError):
    """The encoder does not run, or its queue is too long to finish in time. The text is not embedded."""

    label = "overloaded"
    reason = Reason.OVERLOADED


class EncoderFailed(DecisionError):
    """The encoder raised on this input."""

    label = "encoder_error"
    reason = Reason.ENCODER_ERROR


class PolicyFailed(DecisionError):
    """A rule that denies or labels raised. What is allowed is not known, so the sidecar decides nothing."""

    label = "policy_failed"
    reason = Reason.INTERNAL_ERROR


class UnknownVersion(DecisionError):
    """Envoy uses a version of the registry that this process does not have.

    A decision of another version could send a request to a provider under another model's name. So the
    sidecar decides nothing, and Envoy's default answers.
    """

    label = "unknown_version"
    reason = Reason.UNKNOWN_VERSION


class ProtocolError(RouterError):
    """A message of Envoy is not expected at this point: its configuration does not fit the sidecar."""

    label = "protocol"


class OperatorError(RouterError):
    """Something that an operator must fix. The message says what and how."""

    label = "operator_error"


class RegistryError(OperatorError):
    """A registry that cannot be used.

    ``str(error)`` reads ``file:line: what is wrong (what was expected)``; line is 1-based, and None for a
    file that cannot be read. It is the first of several mistakes, and says how many ``more`` there are.
    ``at`` is the path of the mistaken value in the file; empty: it has none.
    """

    label = "registry_error"

    def __init__(
        self,
        file: str,
        line: int | None,
        problem: str,
        more: "tuple[RegistryError, ...]" = (),
        *,
        at: tuple[str | int, ...] = (),
    ) -> None:
        place = file if line is None else f"{file}:{line}"
        rest = f" (and {len(more)} more; `extproc validate` prints all)" if more else ""
        super().__init__(f"{place}: {problem}{rest}")
        self.at = at
        self.file = file
        self.line = line
        self.problem = problem
        self.more = more

    @property
    def each(self) -> "tuple[RegistryError, ...]":
        """Each mistake as an error of its own, in the order of their lines."""
        return (RegistryError(self.file, self.line, self.problem), *self.more)


class HoldoutFailed(RegistryError):
    """A valid registry routes the rows of its ``holdout`` too badly to serve."""

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
    """Envoy is not installed, or does not start."""

    label = "envoy_missing"


class EnvoyRefused(OperatorError):
    """Envoy rejects its configuration. The message has the file and Envoy's error."""

    label = "envoy_refused"


class VersionRefused(OperatorError):
    """A sidecar rejects a version of the registry permanently. The message has its reason."""

    label = "version_refused"


class NotYet(OperatorError):
    """A condition for a change of Envoy's configuration did not hold in time. The change is retried."""

    label = "not_yet"


class ProcessFailed(OperatorError):
    """A started process ended or did not become ready; the message ends with the last lines of its log."""

    label = "process_failed"


class TaskFailed(OperatorError):
    """A task that serving needs failed too often. The message has its last error."""

    label = "task_failed"

"""The registry's gates: what an answer must pass for a tier of a cascade to keep it."""

from typing import Annotated, Literal

from msgspec import Meta

from extproc.registry.section import Count, Fraction, Positive, Seconds, Section

GATE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Length(Section, frozen=True):
    """How long the text of an answer may be. An answer that only calls tools has no text to measure."""

    min_chars: Count = 1
    max_chars: Positive | None = None


class Repetition(Section, frozen=True):
    """An answer that says the same again and again."""

    max_share: Fraction = 0.5  # of its text that repeats what stands in it already


class Logprob(Section, frozen=True):
    """The model's own confidence; an answer that comes without log-probabilities passes."""

    min_mean: Annotated[float, Meta(le=0.0)]  # natural logarithm, mean over the answer's tokens


class SelfReport(Section, frozen=True):
    """A line in which the model says itself that its answer is not good."""

    pattern: Annotated[str, Meta(min_length=1, max_length=1024)]  # RE2 syntax, searched in the text


class Consulting(Section, frozen=True):
    """Another model that is asked about an answer once all checks have passed; it costs its tokens.

    It is asked through Envoy's ``envoy.egress``. A stream that is judged by its beginning has none.
    """

    model: str
    deadline_s: Seconds = 10.0  # within the tier's own time, too
    budget: Annotated[float, Meta(gt=0.0)] | None = None  # calls a second, of each sidecar; None: any number
    # It said nothing (late, over budget, failed, or it does not speak the API): the answer is judged
    # without, or not kept.
    on_error: Literal["keep", "escalate"] = "keep"


class Second(Consulting, frozen=True):
    """Another answer to the same request."""

    # Least agreement of both answers, 0 to 1, for the first to be kept. An artefact that was fitted on
    # second answers takes the agreement into its score instead.
    min_agreement: Fraction = 0.5
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None  # None: the request's own


class Verifier(Consulting, frozen=True):
    """A model that says how good the answer is: a number from 0 to 1."""

    min_score: Fraction = 0.5
    prompt: str = ""  # what it is told to do, in place of our own words


class Gate(Section, frozen=True):
    """Checks that an answer must pass, each off until it is named. They run in this order."""

    finish: bool = False  # failed, filtered, or cut off at max_tokens
    length: Length | None = None
    refusal: bool = False  # the model says that it will not or can not
    format: bool = False  # JSON, a JSON schema, a code fence or a tool call that is not what was asked for
    repetition: Repetition | None = None
    language: bool = False  # in another language than the question
    logprob: Logprob | None = None
    self_report: SelfReport | None = None
    artefact: str = ""  # a directory from `extproc gate fit`, relative to the registry file
    threshold: Fraction | None = None  # least P(good) of an answer that is kept; None: the artefact's
    second: Second | None = None
    verifier: Verifier | None = None  # not beside a second answer
    prefix_chars: Positive = 400  # a stream is judged by its beginning: as many characters of text,
    prefix_events: Positive = 100  # or as many events, whichever comes first

    @property
    def checks(self) -> tuple[str, ...]:
        """The keys of what an answer must pass, in the order in which it is judged."""
        settings = ("threshold", "prefix_chars", "prefix_events")
        return tuple(
            key
            for key in self.__struct_fields__
            if key not in settings and getattr(self, key) not in (False, None, "")
        )

    @property
    def consulting(self) -> Second | Verifier | None:
        """Whom it asks, if anybody."""
        return self.second or self.verifier

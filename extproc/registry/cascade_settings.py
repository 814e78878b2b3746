"""The registry's cascades and gates: which models are asked in turn, and which answers are good enough."""

from typing import Annotated, Literal

from msgspec import Meta

from extproc.registry.section import Count, Fraction, Positive, Seconds, Section

GATE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Length(Section, frozen=True):
    """How long the text of an answer may be. An answer that only calls tools has no text to measure."""

    min_chars: Count = 1  # least number of characters
    max_chars: Positive | None = None  # greatest number of characters (default: no bound)


class Repetition(Section, frozen=True):
    """Refuses an answer that says the same again and again."""

    max_share: Fraction = 0.5  # greatest share of the text that repeats earlier text of it


class Logprob(Section, frozen=True):
    """The model's own confidence. An answer without log-probabilities passes."""

    min_mean: Annotated[float, Meta(le=0.0)]  # least mean of its tokens' log-probabilities (natural log)


class SelfReport(Section, frozen=True):
    """Refuses an answer in which the model itself says that it is not good."""

    pattern: Annotated[str, Meta(min_length=1, max_length=1024)]  # RE2 syntax, searched in the text


class Consulting(Section, frozen=True):
    """Another model that is asked about an answer once all checks have passed. It costs its tokens.

    The call goes through Envoy's ``envoy.egress``. It needs the whole answer: of a stream, ``stream: hold``.
    """

    model: str  # the public name of a model that speaks openai.chat, with a key of its own or none
    deadline_s: Seconds = 10.0  # seconds for the call; the tier's timeout_s holds as well
    budget: Annotated[float, Meta(gt=0.0)] | None = None  # calls per second of each sidecar (default: any)
    # What happens without an opinion (late, over budget, failed, another API): `keep` judges the answer
    # without it, `escalate` refuses the answer.
    on_error: Literal["keep", "escalate"] = "keep"


class SecondSettings(Consulting, frozen=True):
    """Another answer to the same request."""

    # Least agreement of both answers. An artefact that was fitted on second answers scores the agreement
    # itself, and then this is not used.
    min_agreement: Fraction = 0.5
    # Temperature of the second call. (default: the request's own)
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None


class VerifierSettings(Consulting, frozen=True):
    """A model that rates the answer with a number from 0 to 1."""

    min_score: Fraction = 0.5  # least rating of an answer that is kept
    prompt: str = ""  # the instruction for the model (default: a built-in one)


class Gate(Section, frozen=True):
    """Checks that an answer must pass. Each is off until it is named. They run in this order."""

    finish: bool = False  # refuses answers that were filtered, or cut off at max_tokens
    length: Length | None = None  # refuses answers that are too short or too long
    refusal: bool = False  # refuses answers in which the model says that it will not, or cannot
    format: bool = False  # refuses JSON, code fences and tool calls that are not what was asked for
    repetition: Repetition | None = None  # refuses answers that repeat themselves
    language: bool = False  # refuses answers in another language than the question
    logprob: Logprob | None = None  # refuses answers with a low mean log-probability
    self_report: SelfReport | None = None  # refuses answers that match a pattern
    artefact: str = ""  # a directory from `extproc gate fit`, relative to the registry file; scores P(good)
    threshold: Fraction | None = None  # least P(good) of an answer that is kept (default: the artefact's)
    second: SecondSettings | None = None  # compares with another model's answer (default: no call)
    verifier: VerifierSettings | None = None  # asks another model for a rating; not together with `second`
    prefix_chars: Positive = 400  # with `stream: prefix`, characters of text after which it is judged
    prefix_events: Positive = 100  # or events of the stream, whichever comes first

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
    def consulting(self) -> SecondSettings | VerifierSettings | None:
        """The other model that the gate asks; None: it asks none."""
        return self.second or self.verifier


CASCADE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Retry(Section, frozen=True):
    """Envoy asks the same model again before its failure counts."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 1  # calls after the first one
    # Statuses that are tried again, besides broken connections.
    statuses: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = (429, 502, 503, 504)


class Band(Section, frozen=True):
    """The share of answers that a gate should refuse, as it was calibrated."""

    least: Fraction = 0.0  # least share that is expected
    most: Fraction = 1.0  # greatest share that is expected


class Tier(Section, frozen=True):
    """One model of a cascade, and the gate that its answer must pass."""

    model: str  # the public name of a model
    gate: str = ""  # the name of a gate; empty: every answer is kept
    # What is judged of a streamed answer: all of it (`hold`, the client waits), its beginning (`prefix`),
    # or nothing (`off`).
    stream: Literal["hold", "prefix", "off"] = "prefix"
    # The share of answers that the gate should refuse; a metric raises an alarm outside it. (default:
    # 5 points around the share that its artefact was fitted to)
    expected: Band | None = None
    # Seconds until the answer begins and, if a gate holds it, is judged. (default: no bound)
    timeout_s: Seconds | None = None
    retry: Retry | None = None  # asks this model again before the next tier (default: no retry)


class Cascade(Section, frozen=True):
    """Models that are asked in turn until an answer is good enough. The last one is not judged."""

    tiers: Annotated[list[Tier], Meta(min_length=1, max_length=8)]  # the models, cheapest first
    max_calls: Positive | None = None  # greatest number of calls per request (default: all tiers + default)
    deadline_s: Seconds | None = None  # seconds that all calls share until an answer begins (default: none)

"""The registry's ``safety``: what is looked for in requests, and what is done about it."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import field

from extproc.registry.section import Fraction, OneOrMany, Section
from extproc.vocabulary import SafetyAction, Scope

PII_KINDS: Final = ("card", "email", "iban", "national_id", "phone")
PiiKind = Literal["card", "email", "iban", "national_id", "phone"]


class PiiSettings(Section, frozen=True):
    """Personal data, found by check digits and form."""

    action: SafetyAction = SafetyAction.REDACT  # what is done about it
    kinds: list[PiiKind] = field(default_factory=lambda: list(PII_KINDS))  # what is looked for
    label: str = "pii"  # models that are cleared for it may read what is found
    allow: OneOrMany = []  # shell patterns of values that are harmless, such as *@example.com


class SecretSettings(Section, frozen=True):
    """Keys and tokens of providers, and private keys."""

    action: SafetyAction = SafetyAction.REFUSE  # what is done about them
    label: str = "secret"  # models that are cleared for it may read what is found


class TemplateSettings(Section, frozen=True):
    """Known templates of attacks on a model, such as DAN."""

    action: SafetyAction = SafetyAction.REFUSE  # what is done about them: allow, guard or refuse
    label: str = "template"  # of a guarded request


class HeadClassSettings(Section, frozen=True):
    """What is done about a class that the safety head finds. There is nothing to redact."""

    action: SafetyAction = SafetyAction.ALLOW  # allow, guard or refuse
    label: str = ""  # of a guarded request (default: the name of the class)
    # Greatest probability that does not count. (default: the artefact's, by its budget of false positives)
    threshold: Fraction | None = None


class SafetyHeadSettings(Section, frozen=True):
    """A trained head that finds harmful requests by their embedding. Each request is embedded then."""

    artefact: str  # a directory from `extproc train --safety`, relative to the registry file
    classes: dict[str, HeadClassSettings] = {}  # by name; a class that is absent is only recorded


class ClassTerms(msgspec.Struct, frozen=True):
    """What is done about one class, with its defaults."""

    action: SafetyAction
    label: str


class SafetySettings(Section, frozen=True):
    """Looks for personal data, secrets and harm in every request, before all but deny rules decides."""

    reads: Scope = field(
        default=Scope.EVERYTHING, name="in"
    )  # what is searched for pii, secrets and templates
    pii: PiiSettings | None = None  # personal data (default: not looked for)
    secrets: SecretSettings | None = None  # keys and tokens (default: not looked for)
    templates: TemplateSettings | None = None  # known attacks on a model (default: not looked for)
    head: SafetyHeadSettings | None = None  # finds harmful requests (default: none)
    # How a refusal looks: a 400, or a 200 in which a model seems to refuse. No model is called.
    answer: Literal["error", "refusal"] = "error"
    # Requests with these exact values of trusted headers are not searched. (default: all are)
    exempt: dict[str, OneOrMany] = {}

    @property
    def terms(self) -> Mapping[str, ClassTerms]:
        """What is done about each class: ``pii``, ``secrets``, ``templates``, ``head.CLASS``."""
        by_name: dict[str, PiiSettings | SecretSettings | TemplateSettings | HeadClassSettings | None] = {
            "pii": self.pii,
            "secrets": self.secrets,
            "templates": self.templates,
        }
        by_name |= {f"head.{name}": each for name, each in self.head.classes.items()} if self.head else {}
        return {
            name: ClassTerms(each.action, each.label or name.removeprefix("head."))
            for name, each in by_name.items()
            if each is not None
        }

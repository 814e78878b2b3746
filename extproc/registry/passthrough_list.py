"""``passthrough.paths``: which requests pass unread."""

import re
from collections.abc import Iterator

import msgspec

from extproc.apis.api_paths import PATHS
from extproc.registry.schema import Registry
from extproc.vocabulary import SafetyAction

# RFC 3986's characters of a segment, less those that servers read in different ways (`%`, `;`) and `*`.
SEGMENT = r"[A-Za-z0-9._~!$&'()+,=:@-]+"
_PATTERN = re.compile(rf"(?:(?P<method>[A-Z]+) )?(?P<path>(?:/{SEGMENT})+?|)(?P<below>/\*)?")

# What passes beside deny rules and models that clients may not choose, where the registry names no
# paths: no model answers these requests.
DEFAULT = ("POST /v1/messages/count_tokens", "GET /v1/responses/*", "DELETE /v1/responses/*")

# Where providers also take prompts. A pattern that ends in /* must not open these by accident.
_PROMPTS = (
    *PATHS.values(),
    *(path.removeprefix("/v1") for path in PATHS.values()),
    *(f"/openai{path}" for path in PATHS.values()),
    *(f"/api{path}" for path in PATHS.values()),
    "/api/chat",
    "/api/generate",
    "/generate",
    "/openai/deployments/NAME/chat/completions",
    "/openai/deployments/NAME/completions",
    "/v1/assistants",
    "/v1/batches",
    "/v1/complete",
    "/v1/engines/NAME/completions",
    "/v1/messages/batches",
    "/v1/realtime/calls",
    "/v1/responses/compact",
    "/v1/threads/runs",
    "/v1/threads/ID/messages",
)
_WITHOUT_PROMPT = ("GET", "HEAD", "DELETE")


class Passing(msgspec.Struct, frozen=True):
    """One entry: a path, or with ``below`` all paths below it; an empty method is any."""

    path: str
    method: str = ""
    below: bool = False

    def covers(self, path: str) -> bool:
        """Whether ``path`` passes, if the method does; in any case of letters, as some servers read it."""
        own, path = self.path.lower(), path.lower()
        return path.startswith(f"{own}/") if self.below else path == own


def read(text: str) -> Passing | None:
    """Parse ``[METHOD ]/PATH[/*]``; None for anything else."""
    match = _PATTERN.fullmatch(text)
    if match is None or not (match["path"] or match["below"]):
        return None
    return Passing(match["path"], match["method"] or "", bool(match["below"]))


def passing(registry: Registry) -> tuple[Passing, ...] | None:
    """What passes. The registry has passed every check. None: everything."""
    written = registry.passthrough.paths if registry.passthrough else None
    if written is None and not restrictions(registry):
        return None
    entries = map(read, DEFAULT if written is None else written)
    return tuple(entry for entry in entries if entry is not None)


def restrictions(registry: Registry) -> tuple[str, ...]:
    """The restrictions on LLM calls that a request would evade by passing unread."""
    denying = (f"rule `{rule.name}` denies requests" for rule in registry.rules if rule.deny)
    unsafe = (
        f"safety.{name} refuses requests"
        for name, each in registry.safety_classes.items()
        if each.action is SafetyAction.REFUSE
    )
    labels = ("requests with labels reach only models that are cleared",) if registry.labels_requests else ()
    kept = (f"clients may not choose `{name}`" for name, model in registry.models.items() if not model.pin)
    unknown = ("unknown models are rejected",) if registry.unknown_models == "reject" else ()
    return (*denying, *unsafe, *labels, *kept, *unknown)


def opened(entry: Passing) -> str:
    """A path of prompts that ``entry`` lets pass although it does not name it; empty: none."""
    if entry.method in _WITHOUT_PROMPT:
        return ""
    paths = _PROMPTS if entry.below else PATHS.values()
    return next((path for path in paths if entry.covers(path)), "")


def notices(registry: Registry) -> Iterator[str]:
    """Warnings about a ``passthrough`` without ``paths``."""
    why = restrictions(registry)
    if registry.passthrough is not None and registry.passthrough.paths is None and why:
        yield (
            f"passthrough: only {', '.join(DEFAULT)} pass, because {why[0]} and nothing checks what passes. "
            "List every other path that may pass in `passthrough.paths`, such as POST /v1/embeddings"
        )

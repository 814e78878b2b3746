"""The paths of the LLM APIs, and the spellings of them that a server may accept.

Envoy decodes escaped slashes, removes dot segments and merges slashes before it looks for a route.
Servers do more than that: they ignore case, a trailing slash, ``;parameters`` and trailing spaces, or
decode a path twice. A request that such a server takes for a chat request must not pass unread.

``api_at`` reads a path as the most lenient server does. ``misspellings`` are RE2 expressions for Envoy; they
match every path that ``api_at`` reads so, and more.
"""

import re
import unicodedata
from urllib.parse import unquote

from extproc.vocabulary import Api

PATHS = {
    Api.OPENAI_CHAT: "/v1/chat/completions",
    Api.OPENAI_COMPLETIONS: "/v1/completions",
    Api.OPENAI_RESPONSES: "/v1/responses",
    Api.ANTHROPIC_MESSAGES: "/v1/messages",
}

# A dot segment that Envoy leaves in a path, such as `..;` or `%252e%252e`. It may lead to any other path.
DOT_SEGMENT = r"(?i)[^?]*[/\\](?:\.|%(?:25)*2e){1,2}(?:[/\\;%][^?]*)?"

_DECODINGS = 3
_ESCAPED_PERCENT = re.compile("%(?:25)+")
_BLANK = "\0 \t\r\n"
_SLASH = re.compile(r"[/\\]")
_AFTER_NAME = re.compile(r"[^\w-].*", re.DOTALL)

_EXACT = {path: api for api, path in PATHS.items()}
# The suffixes of all but chat completions begin with their version, as the rest is a common word:
# a thread of OpenAI's assistants has /messages too.
_SUFFIXES = {
    ("chat", "completions"): Api.OPENAI_CHAT,
    **{tuple(path[1:].split("/")): api for path, api in _EXACT.items()},
}


def api_at(path: str) -> Api | None:
    """The API whose path ``path`` ends with, in any spelling; its query does not count."""
    resource = path.partition("?")[0]
    if resource in _EXACT:
        return _EXACT[resource]
    *before, last = _segments(resource)
    names = (*before[-2:], _AFTER_NAME.sub("", last))
    return _SUFFIXES.get(names[-3:]) or _SUFFIXES.get(names[-2:])


def misspellings(api: Api) -> tuple[str, str]:
    """What matches other spellings of the path of ``api``, as a whole and without a query.

    Envoy limits the size of an expression, so these stop where a path first has an escape, ``;`` or
    another unusual character: what precedes that is the beginning of the API's path.
    """
    path = PATHS[api]
    whole = rf"(?i){re.escape(path)}(?:/|[^\w/?-][^?]*)?"
    beginning = "".join(f"(?:{re.escape(letter)}" for letter in path[1:] + "/")
    return whole, rf"(?i)/{beginning}{')?' * len(path)}[%;\\][^?]*"


def _segments(path: str) -> list[str]:
    """The names in ``path``, as a server reads them that decodes, folds and resolves all that it can."""
    for _ in range(_DECODINGS):
        path = unquote(_ESCAPED_PERCENT.sub("%", path), errors="replace")
    kept = [""]
    for segment in _SLASH.split(unicodedata.normalize("NFKC", path).casefold()):
        name = segment.partition(";")[0].strip(_BLANK)
        if name == "..":
            del kept[max(1, len(kept) - 1) :]
        elif name not in ("", "."):
            kept.append(name)
    return kept

"""Known templates of attacks on a model: texts that are copied, slightly changed, to make it drop its rules.

The names are those by which the templates are known. Each pattern needs words that seldom stand together in
ordinary text. A new template, or one that is rewritten, is not found.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import re2

from extproc.safety.quiet_patterns import compiled
from extproc.safety.text_scan import encodable

# By name, patterns that all have to be found: RE2, in lower-case text with single spaces. The first one is
# rare.
TEMPLATES: Final[Mapping[str, Sequence[str]]] = {
    "aim": (r"always intelligent and machiavellian|niccol[oò] machiavelli", r"\baim\b"),
    "anti_dan": (r"\b(?:you are|act as|as) anti-?dan\b",),
    "better_dan": (r"\bbetter ?dan\b",),
    "dan": (r"\bdo anything now\b|\bstands for \W?do anything\b|\bdan mode\b|\bstay a dan\b",),
    "developer_mode": (
        r"\bdeveloper mode (?:enabled|output|response)\b|simulate .{0,60}developer mode"
        r"|with developer mode\b",
    ),
    "dude": (r"\bdude\b.{0,80}\bcan do anything\b",),
    "evil_confidant": (r"\bevil ?(?:trusted )?confidant\b|\bevil-?bot\b",),
    "forget_instructions": (
        r"\b(?:ignore|disregard|forget) (?:all |any |the |your |every |of )*"
        r"(?:previous|prior|above|earlier|former|preceding|initial|original) (?:\w+ ){0,2}"
        r"(?:instructions?|prompts?|rules|directions|guidelines|programming|commands?)\b",
    ),
    "jailbroken": (
        r"\bjail ?broken (?:ai|mode|chat|gpt|response)\b|🔓 ?jailbreak|\bjailbreak(?:ed)? (?:prompt|mode)\b",
    ),
    "mongo_tom": (r"\bmongo ?tom\b",),
    "never_refuse": (
        r"\b(?:never|not|cannot|can't|won't|don't) (?:ever )?(?:refuse|reject|decline|deny) (?:\w+ ){0,6}"
        r"(?:requests?|questions?|prompts?|orders?|commands?|instructions?|user|what i ask)\b"
        r"|\b(?:never|don't|do not|cannot|must not) say (?:\w+ |\W){0,6}"
        r"(?:i'm sorry|i am sorry|i can't|i cannot|as an ai)",
    ),
    "no_restrictions": (
        r"\b(?:without|free (?:of|from)|unbound by|break (?:all|free of)|not bound by|bypass(?:es|ing)?"
        r"|has no|have no)"
        r" (?:all |any |the |moral |ethical |legal |typical |openai'?s? |its |content |or |and )*"
        r"(?:restrictions|limitations|filters?|censorship|guidelines|confines|policies|boundaries)\b",
        r"\b(?:you (?:are|will|must) (?:now |always |act|respond|answer|be)|act(?:s|ing)? as|pretend"
        r"|character|persona)\b",
    ),
    "opposite_mode": (r"\bopposite mode\b",),
    "out_of_character": (
        r"\b(?:stay|remain|never break) (?:in |out of )?character\b|\bbreak character\b",
        r"\b(?:illegal|immoral|unethical|amoral)\b",
    ),
    "stan": (r"\bstrive to avoid norms\b",),
    "token_system": (
        r"\b(?:deduct|lose|losing|subtract|start with)\b.{0,40}\btokens\b",
        r"\b(?:die|dead|cease to exist|terminated|shut down|run out)\b",
    ),
    "unfiltered_model": (
        r"\b(?:amoral|unfiltered|uncensored|unethical|unrestricted|lawless|unhinged)"
        r"(?:,? (?:and )?(?:amoral|unfiltered|uncensored|unethical|unrestricted|immoral))*"
        r" (?:ai|artificial intelligence|chat ?bot|language model|assistant|bot|version|computer|character"
        r"|persona|being)\b",
    ),
}


_ALL: Final = {name: tuple(map(compiled, patterns)) for name, patterns in TEMPLATES.items()}


def _rare() -> Any:
    """The first pattern of each template, in one pass."""
    found = re2.Set.SearchSet()
    for first, *_ in TEMPLATES.values():
        found.Add(first)
    found.Compile()
    return found


_RARE: Final = _rare()
_NAMES: Final = tuple(TEMPLATES)


def known_template(text: str) -> str:
    """The name of a template that the text contains; empty: none. Linear in its length."""
    plain = " ".join(encodable(text).lower().replace("’", "'").split())
    for place in sorted(_RARE.Match(plain) or ()):
        name: str = _NAMES[place]
        if all(pattern.search(plain) for pattern in _ALL[name]):
            return name
    return ""

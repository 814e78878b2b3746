"""What is asked: a registry of three routes and a rule, and requests of known length in tokens."""

import json
from pathlib import Path

import yaml

from extproc.embedding.encoder_files import locate
from extproc.embedding.tokenizer import Tokenizer
from extproc.errors import OperatorError

RULE_16 = "Has the invoice for the new office chairs been paid yet?"
EMBEDDED_16 = "Write a Python function that sorts a long list of names by their length"
EMBEDDED_64 = (
    "Write a Python function that reads a large file of orders line by line, adds up the price of "
    "every order for each customer, sorts the customers by their total and prints the first ten. "
    "It must not load the file into memory, and it must raise a clear error when a line "
    "cannot be parsed."
)
# Of no route, so that an LLM is asked where there is one. They are many, because equal texts share a call.
DOUBTFUL_16 = tuple(
    f"The {look} {thing} near the {place} was painted by a famous artist in may"
    for look in ("small", "large", "old", "new", "white", "green", "dark", "quiet")
    for thing in ("horse", "river", "ship", "garden", "tower", "village", "forest", "bridge")
    for place in ("hill", "church", "lake", "harbor", "castle", "market", "coast", "valley")
)
_TOKENS = {  # with [CLS] and [SEP]
    RULE_16: 16, EMBEDDED_16: 16, EMBEDDED_64: 64, **dict.fromkeys(DOUBTFUL_16, 16),
}  # fmt: skip
_MAX_TOKENS = 128

_ROUTES = {
    "everyday": [
        "Hi there, how are you today?",
        "Tell me a joke about cats",
        "What is the capital of Australia?",
        "Translate good morning into Spanish",
        "Give me a recipe for pancakes",
        "Write a birthday message for my colleague",
        "What should I cook for dinner tonight?",
        "How do you say thank you in Japanese?",
    ],
    "coding": [
        "Write a Python function that reverses a list",
        "Write a function that sorts a list of words by length",
        "Why does this loop raise an index error?",
        "Parse a large CSV file line by line in Python",
        "Add type annotations to this class",
        "Explain what this regular expression matches",
        "Write a unit test for this function",
        "Sum the price of the orders of each customer in SQL",
    ],
    "reasoning": [
        "A train leaves at noon at 80 km/h; when does it meet the other one?",
        "Prove that the square root of two is irrational",
        "How many ways are there to seat six guests at a round table?",
        "If all bloops are razzies and some razzies are lazzies, are some bloops lazzies?",
        "What is the probability of two sixes in five throws of a die?",
        "Solve the recurrence T(n) = 2T(n/2) + n",
        "Find the smallest number divisible by every number from 1 to 20",
        "Is this argument valid, and which premise is the weakest?",
    ],
}
ARTEFACT, SAFETY_HEAD = "artefact", "safety"  # directories beside the registry
_SENTENCES = {
    "everyday": (
        ("Tell me a joke about {}", "Translate {} into Spanish", "How do you say {} in Japanese?"),
        ("cats", "good morning", "pancakes", "the weather", "my colleague", "dinner", "the sea", "holidays"),
    ),
    "coding": (
        ("Write a Python function that sorts {}", "Write a function that reverses a long list of {}",
         "Why does this loop over {} by length raise an error?"),
        ("names", "words", "a large CSV file", "orders", "this class", "prices", "keys", "strings"),
    ),
    "reasoning": (
        ("Prove that {} is irrational", "What is the probability of {}?", "How many ways are there for {}?"),
        ("two sixes", "the root of two", "six guests", "bloops", "seven", "a fair coin", "primes", "trains"),
    ),
}  # fmt: skip
LLM_PATH = "/llm"  # of the model's server: what is asked there answers as an LLM in doubt does
LLM_ROUTE = "everyday"  # that it names
_MODELS = {"everyday": "small", "coding": "code", "reasoning": "large"}


def check_tokens() -> None:
    """Raises OperatorError unless the encoder reads the texts as the lengths they are named by."""
    texts = list(_TOKENS)
    rows = Tokenizer(locate().tokenizer, _MAX_TOKENS).tokenize(texts)
    for text, row in zip(texts, rows, strict=True):
        if row.size != _TOKENS[text]:
            raise OperatorError(f"{text!r} has {row.size} tokens instead of {_TOKENS[text]}")


def write_labelled(path: Path) -> None:
    """Writes rows to learn the fast path from: sentences of each route, and some of none."""
    rows = [
        {"text": pattern.format(thing), "route": route}
        for route, (patterns, things) in _SENTENCES.items()
        for pattern in patterns
        for thing in things
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_classes(path: Path) -> None:
    """Writes rows to learn a safety head from: everyday sentences are a class, all others are ordinary."""
    rows = [
        {"text": pattern.format(thing), "label": route if route == LLM_ROUTE else None}
        for route, (patterns, things) in _SENTENCES.items()
        for pattern in patterns
        for thing in things
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_registry(
    path: Path,
    *,
    upstream: str,
    listen: str,
    admin: str,
    sidecar: str,
    decision_ms: int | None,
    by_words: bool = False,
    egress: str = "",
    searches: bool = False,
    judges: bool = False,
) -> None:
    """Writes a registry; ``decision_ms`` None leaves the budget at its default.

    ``by_words``: it takes the fast path, of an artefact beside it, and next to nothing is sampled. With an
    ``egress`` it asks an LLM about every request in doubt. ``searches``: it looks for personal data and
    secrets. ``judges``: it has a safety head, in a directory beside it.
    """
    envoy = {"listen": listen, "admin": admin, "sidecar": sidecar}
    models = {name: {"base_url": upstream} for name in _MODELS.values()}
    registry: dict[str, object] = {
        "models": models,
        "default": "large",
        "rules": [{"name": "invoices", "when": {"keyword": "invoice"}, "model": "small"}],
        "routes": {name: {"candidates": _MODELS[name], "examples": _ROUTES[name]} for name in _ROUTES},
        "envoy": envoy,
    }
    if decision_ms is not None:
        registry["decision_ms"] = decision_ms
    if by_words:
        registry |= {"artefact": ARTEFACT, "fast_path": {"sample": 0.001}}
    if egress:
        models["llm"] = {"base_url": f"{upstream}{LLM_PATH}"}
        envoy["egress"] = egress
        registry["llm"] = {"model": "llm", "max_share": 1.0, "per_second": 1_000_000, "cache": 0}
    if searches:
        registry |= {"without_sidecar": "refuse", "safety": {"pii": {}, "secrets": {}}}
    if judges:
        registry["safety"] = {"pii": {}, "secrets": {}, "head": {"artefact": SAFETY_HEAD}}
    path.write_text(yaml.safe_dump(registry, sort_keys=False))


def chat_body(text: str) -> bytes:
    """A chat completion request as the OpenAI client writes it."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": text},
    ]
    return json.dumps({"model": "auto", "messages": messages, "temperature": 0.2}).encode()


def http_request(body: bytes) -> bytes:
    """The body as a whole HTTP/1.1 request, with the headers that clients of an LLM send."""
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: router.example",
        "content-type: application/json",
        "accept: application/json",
        "user-agent: benchmark",
        "authorization: Bearer of-a-client",
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body

"""Every mistake of an operator is reported with the file, the line and what was expected."""

from pathlib import Path

import pytest

from extproc.errors import RegistryError
from extproc.registry.registry_loading import load
from extproc.registry.schema import Thresholds

GOOD = """\
models:
  small: {base_url: "http://127.0.0.1:1"}
  large: {base_url: "http://[::1]:2/", name: big-1, pin: false, price: {input: 1, output: 2.5}}
default: large
trusted_headers: [X-Tier]
rules:
  - name: no-secrets
    when: {regex: 'password\\s*=', path: /v1/chat/completions}
    deny: No secrets.
  - name: free-tier
    when: {header: {x-tier: free}, keyword: [hello, good day]}
    route: chat
routes:
  chat:
    candidates: small
    examples: [hi, how are you]
  work:
    candidates: [large]
    examples: [plan the project]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "registry.yaml"
    path.write_text(text)
    return path


def mistake(folder: Path, text: str) -> tuple[int, str]:
    with pytest.raises(RegistryError) as caught:
        load(write(folder, text))
    assert (
        str(caught.value.each[0]) == f"{folder / 'registry.yaml'}:{caught.value.line}: {caught.value.problem}"
    )
    return caught.value.line, caught.value.problem


def test_a_good_registry_is_read_with_its_defaults(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    assert loaded.registry.models["large"].name == "big-1"
    assert loaded.registry.models["small"].pin is True
    assert loaded.registry.rules[1].when.header == {"x-tier": "free"}
    assert loaded.registry.thresholds == Thresholds()
    assert loaded.artefact is None
    assert loaded.examples == {"chat": ("hi", "how are you"), "work": ("plan the project",)}


def test_the_version_follows_the_content_of_every_file(tmp_path: Path) -> None:
    text = GOOD.replace("examples: [plan the project]", "examples_file: work.txt")
    (tmp_path / "work.txt").write_text("plan the project\n\n  draft a budget  \n")
    first = load(write(tmp_path, text))
    assert first.examples["work"] == ("plan the project", "draft a budget")
    assert load(write(tmp_path, text)).version == first.version
    (tmp_path / "work.txt").write_text("plan the projects\n")
    assert load(write(tmp_path, text)).version != first.version


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("default: large", "defualt: large", 4, "unknown key `defualt` (did you mean `default`?"),
        ("pin: false", "pins: false", 3, "unknown key `pins` (did you mean `pin`?"),
        ("regex:", "regexp:", 8, "unknown key `regexp` (did you mean `regex`?"),
        ("price: {input: 1", "price: {inputs: 1", 3, "unknown key `inputs`"),
        ("default: large\n", "", 1, "missing key `default`"),
        ("default: large", "default: large\ndeny_status: 401", 5, "401"),
        ("default: large", "default: huge", 4, "there is no model `huge` (expected one of: small, large)"),
        ("candidates: small\n", "candidates: smal\n", 15, "there is no model `smal`"),
        ("candidates: [large]", "candidates: []", 18, "the route `work` has no candidates"),
        ("candidates: [large]", "candidates: [large, large]", 18, "the candidate `large` is listed twice"),
        ("candidates: [large]", "candidates: [large, small]", 18, "small has no price, so the cheapest of large, small is unknown (expected `price` in each"),
        ("candidates: [large]", "candidates: large\n    thresholds: {margin: 2}", 19, "<= 1.0"),
        ("name: big-1", "auth: {}", 3, "expected `passthrough`, or exactly one of env and file"),
        ("name: big-1", "auth: {env: A, file: b}", 3, "expected `passthrough`, or exactly one of env and file"),
        ("name: big-1", "auth: {env: sk-123}", 3, "auth.env is not a valid variable name (expected a name, not the key itself)"),
        ("default: large", "default: large\nfeedback: {}", 5, "missing key `token`"),
        ("default: large", "default: large\nfeedback: {token: {}}", 5, "feedback.token: expected exactly one of env and file"),
        ("default: large", "default: large\nfeedback: {token: {env: s3cr-et}}", 5, "token.env is not a valid variable name"),
        ("name: big-1", "auth: {key: sk-123}", 3, "unknown key `key`"),
        ("name: big-1", "context_window: 0", 3, ">= 1"),
        ("    route: chat", "    route: chit", 12, "there is no route `chit` (expected one of: chat, work)"),
        ("    deny: No secrets.\n", "", 7, "expected exactly one of deny, route, model, or a `label`; got none"),
        ("    deny: No", "    model: small\n    deny: No", 7, "got deny and model"),
        ("    deny: No", "    in: user\n    deny: No", 9, "user"),
        ("{header: {x-tier: free}, keyword: [hello, good day]}", "{header: {x-tier: free}}\n    in: all_user", 12, "rule `free-tier` has `in` but no condition on text (expected keyword, regex, min_chars or max_chars)"),
        ("name: free-tier", "name: no-secrets", 10, "rule `no-secrets`: another rule has this name"),
        ("'password\\s*='", "'password('", 8, "expected RE2 syntax"),
        ("'password\\s*='", "'(?=x)'", 8, "expected RE2 syntax"),
        ("'password\\s*='", "'(\\pL{1,300}x){1,3}'", 8, "pattern too large"),
        ("{header: {x-tier: free}, keyword: [hello, good day]}", "{}", 11, "at least one condition"),
        ("{x-tier: free}", "{x-other: free}", 11, "clients could set the header `x-other` (expected one of trusted_headers: x-tier)"),
        ("[hello, good day]", "['']", 11, "keyword: must not be empty"),
        ("{header: {x-tier: free}", "{min_chars: 9, max_chars: 3", 11, "min_chars 9 is greater than max_chars 3"),
        ("[X-Tier]", "[x-router-tier]", 5, "`x-router-tier` is reserved"),
        ("[X-Tier]", "['a b']", 5, "is not a valid header name"),
        ("http://127.0.0.1:1", "127.0.0.1:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "ftp://127.0.0.1:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://127.0.0.1:99999", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1?a=b", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://me:secret@h:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://h:/v1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://a b:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://h\\n:1", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://-h.test", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("http://127.0.0.1:1", "http://h/a%2Fb", 2, "expected http(s)://HOST[:PORT][/PATH]"),
        ("name: big-1", "tls: {ca_file: ca.pem}", 3, "models.large.tls needs an https base_url"),
        ("http://127.0.0.1:1\"", "https://h\", tls: {server_name: 'a b'}", 2, "'a b' is not a valid host name"),
        ("name: big-1", "apis: [openai.chats]", 3, "models.large.apis.0"),
        ("name: big-1", "apis: [openai.chat, openai.chat]", 3, "an API is listed twice"),
        ("name: big-1", "endpoints: [{address: 'h'}]", 3, "'h' is not a valid address (expected HOST:PORT)"),
        ("name: big-1", "endpoints: [{address: 'a b:1'}]", 3, "'a b:1' is not a valid address (expected HOST:PORT)"),
        ("name: big-1", "endpoints: [{address: 'h:1'}, {address: 'h:1'}]", 3, "the endpoint h:1 is listed twice"),
        ("name: big-1", "load_balancing: random, endpoints: [{address: 'h:1', weight: 2}]", 3, "random load balancing ignores weights"),
        ("name: big-1", "health_check: {path: health}", 3, "'health' is not a valid path"),
        ("name: big-1", "health_check: {path: '/a b'}", 3, "'/a b' is not a valid path"),
        ("name: big-1", "outlier_ejection: {after: 0}", 3, ">= 1"),
        ("default: large", "default: {openai.chat: large, openai.chart: small}", 4, "there is no API `openai.chart`"),
        ("default: large", "default: {openai.chat: big}", 4, "there is no model `big`"),
        ("default: large", "default: {anthropic.messages: large}", 4, "`large` does not speak anthropic.messages"),
        ("  small: {base_url", "  small: {apis: [anthropic.messages], base_url", 4,
         "`small` speaks anthropic.messages, but this API has no default model"),
        ("default: large", "default: large\npassthrough: {base_url: h}", 5, "passthrough.base_url: 'h' is not a valid base URL"),
        ("default: large", "default: large\nwithout_sidecar: deny", 5, "without_sidecar"),
        ("default: large", "default: large\nwithout_sidecar: {openai.chart: refuse}", 5, "no API `openai.chart`"),
        ("default: large", "default: large\nwithout_sidecar: {anthropic.messages: refuse}", 5,
         "no model speaks anthropic.messages (expected one of: openai.chat"),
        ("default: large", "default: large\nstream_usage: always", 5, "stream_usage"),
        ("default: large", "default: large\nreference: big", 5, "there is no model `big`"),
        ("default: large", "default: large\nreference: small", 5, "the reference `small` has no price"),
        ("default: large", "default: large\ntelemetry: {trace_share: 10}", 5, "<= 1"),
        ("default: large", "default: large\ntelemetry: {share: 1}", 5, "trace_share, low_margin"),
        ("candidates: [large]", "candidates: large\n    fallback: [big]", 19, "there is no model `big`"),
        ("candidates: [large]", "candidates: large\n    fallback: [small, small]", 19, "`small` is listed twice"),
        ("candidates: [large]", "candidates: large\n    retry: {attempts: 99}", 19, "<= 10"),
        ("candidates: [large]", "candidates: large\n    reasoning: huge", 19, "reasoning"),
        ("candidates: [large]", "candidates: large\n    max_tokens: 0", 19, ">= 1"),
        ("candidates: [large]", "candidates: large\n    timeout_s: 0", 19, "> 0"),
        ("candidates: [large]", "candidates: large\n    request_headers: {host: a}", 19, "`host` cannot be set here"),
        ("candidates: [large]", "candidates: large\n    request_headers: {x-router-a: a}", 19, "`x-router-a` is reserved for the router"),
        ("candidates: [large]", 'candidates: large\n    response_headers: {a: "b\\n"}', 19, "has control characters (expected one line of text)"),
        ("  small:", "  auto:", 2, "the name `auto` is reserved"),
        ("  small:", "  sm all:", 2, "is not a valid model name"),
        ("  chat:", "  'chat room':", 14, "is not a valid route name"),
        ("examples: [plan the project]", "examples: []", 17, "the route `work` can never be chosen"),
        ("[plan the project]", "[plan, hi]", 19, "'hi' is an example of both `chat` and `work`"),
        ("[plan the project]", "[plan, '']", 19, "routes.work.examples.1: must not be empty"),
        ("[plan the project]", "[plan, 7]", 19, "routes.work.examples.1: must be text; got a whole number"),
        ("[plan the project]", "plan the project", 19, "must be a list; got text"),
        ("examples: [plan the project]", "examples_file: none.txt", 19, "No such file"),
        ("default: large", "default: large\nthresholds: {margin: 1.5}", 5, "<= 1.0"),
        ("default: large", "default: large\nthresholds:\n  margin: 0.1\n  similarity: high", 7, "must be a number; got text"),
        ("default: large", "default: large\nscorer: {kind: magic}", 5, "scorer.kind"),
        ("default: large", "default: large\ndecision_ms: 0", 5, ">= 1"),
        ("default: large", "default: large\nenvoy: {listen: ':10000'}", 5, "expected HOST:PORT"),
        ("default: large", "default: large\nenvoy: {sidecar: 'unix:relative'}", 5, "HOST:PORT or unix:/PATH"),
        ("  small: {base_url", "  small: [] #", 2, "models.small: must be a mapping with `base_url`; got a list"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int, problem: str
) -> None:
    assert old in GOOD
    with pytest.raises(RegistryError) as caught:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert [each.line for each in caught.value.each if problem in each.problem] == [line], caught.value.each


def test_models_must_be_a_mapping_with_something_in_it(tmp_path: Path) -> None:
    assert (
        "models: must be a mapping from names to models; got a list"
        in mistake(tmp_path, "models: [a]\ndefault: a\n")[1]
    )
    assert "at least one model" in mistake(tmp_path, "models: {}\ndefault: a\n")[1]


def test_a_file_that_is_absent_or_not_utf8_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"models: {caf\xe9: 1}")
    with pytest.raises(RegistryError, match="is not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_a_registry_of_rules_alone_is_good(tmp_path: Path) -> None:
    text = "models: {small: {base_url: 'http://h:1'}}\ndefault: small\n"
    assert load(write(tmp_path, text)).examples == {}


@pytest.mark.parametrize(
    ("sidecar", "problem"),
    [
        ("[]", "envoy.sidecar: expected at least one address"),
        ("[unix:/a, unix:/a]", "envoy.sidecar: unix:/a is listed twice"),
        (
            "['unix:/a', '127.0.0.1:1']",
            "envoy.sidecar: expected only unix:/PATH addresses or only HOST:PORT addresses",
        ),
        (
            "[router.svc:50051]",
            "envoy.sidecar: router.svc:50051 is plaintext TCP: other machines could read prompts and forge "
            "records (expected unix:/PATH or a loopback address; `sidecar_plaintext: true` in the registry's "
            "`envoy` allows it)",
        ),
        (
            "[unix:/a, nowhere]",
            "envoy.sidecar: 'nowhere' is not a valid address (expected HOST:PORT or unix:/PATH)",
        ),
    ],
)
def test_sidecars_are_distinct_addresses_of_one_kind(tmp_path: Path, sidecar: str, problem: str) -> None:
    _, told = mistake(tmp_path, GOOD + f"envoy: {{sidecar: {sidecar}}}\n")
    assert told == problem


def test_one_sidecar_or_several_are_good(tmp_path: Path) -> None:
    for sidecar in ("unix:/a", "[unix:/a, unix:/b]", "['localhost:1', '127.0.0.1:1', '[::1]:1']"):
        load(write(tmp_path, GOOD + f"envoy: {{sidecar: {sidecar}}}\n"))


def test_a_sidecar_that_others_can_reach_is_good_where_plaintext_is_allowed(tmp_path: Path) -> None:
    load(write(tmp_path, GOOD + "envoy: {sidecar: ['a.svc:1', '10.0.0.1:1'], sidecar_plaintext: true}\n"))

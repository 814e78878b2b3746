"""Which requests may pass unread is the operator's to say, and no pattern opens more than it names."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from extproc.cli import main
from extproc.registry.model_settings import Model, Passthrough
from extproc.registry.passthrough_list import DEFAULT, notices, passing, read
from extproc.registry.schema import Registry, RuleSettings, When
from tests.registry.test_registry_loading import mistake, write

OPEN = Registry(
    models={"only": Model(base_url="http://h:1")},
    default="only",
    passthrough=Passthrough(base_url="http://h:2"),
)
DENY = [RuleSettings(name="no-cards", when=When(keyword="card"), deny="No.")]
RESTRICTED = [
    replace(OPEN, rules=DENY),
    replace(OPEN, unknown_models="reject"),
    replace(OPEN, models={"only": Model(base_url="http://h:1", pin=False)}),
]


def test_without_restrictions_everything_passes() -> None:
    assert passing(OPEN) is None
    assert list(notices(OPEN)) == []


@pytest.mark.parametrize("registry", RESTRICTED)
def test_where_requests_are_restricted_only_what_carries_no_prompt_passes(registry: Registry) -> None:
    assert passing(registry) == tuple(map(read, DEFAULT))
    (notice,) = notices(registry)
    assert "only POST /v1/messages/count_tokens, GET /v1/responses/*" in notice
    assert "in `passthrough.paths`, such as POST /v1/embeddings" in notice


@pytest.mark.parametrize("registry", [OPEN, *RESTRICTED])
@pytest.mark.parametrize("paths", [[], ["GET /v1/files/*", "/v1/embeddings"]])
def test_paths_that_are_written_are_the_whole_list(registry: Registry, paths: list[str]) -> None:
    listed = replace(registry, passthrough=Passthrough(base_url="http://h:2", paths=paths))
    assert passing(listed) == tuple(map(read, paths))
    assert list(notices(listed)) == []


YAML = """\
models: {a: {base_url: "http://h:1"}}
default: a
rules: [{name: no-cards, when: {keyword: card}, deny: No.}]
passthrough:
  base_url: http://h:2
  paths:
    - POST /v1/embeddings
    - PATH
"""


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "GET /v1/files/*",
        "/v1/chat/completions/*",
        "GET /*",
        "GET /v1/chat/completions",
        "/v1/batches",
    ],
)
def test_a_path_that_names_what_it_opens_is_taken(tmp_path: Path, path: str) -> None:
    assert main(["validate", str(write(tmp_path, YAML.replace("PATH", path)))]) == 0


@pytest.mark.parametrize(
    "path",
    ["v1/files", "/", "''", "get /v1/files", "/v1/files/", "/v1//files", "/v1/*/files", "/v1/files*", "/a%20b", "'/a?b'", "/a;b"],
)  # fmt: skip
def test_an_invalid_path_is_reported_with_its_line(tmp_path: Path, path: str) -> None:
    line, problem = mistake(tmp_path, YAML.replace("PATH", path))
    assert line == 8
    assert "is not a valid path (expected [METHOD ]/PATH, or /PATH/* for all paths below it)" in problem


@pytest.mark.parametrize(
    ("path", "opened"),
    [
        ("/*", "/v1/chat/completions"),
        ("POST /v1/*", "/v1/chat/completions"),
        ("/V1/*", "/v1/chat/completions"),
        ("/v1/chat/*", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("PUT /v1/Messages", "/v1/messages"),
        ("/v1/messages/*", "/v1/messages/batches"),
        ("/openai/*", "/openai/v1/chat/completions"),
        ("/openai/deployments/*", "/openai/deployments/NAME/chat/completions"),
        ("/v1/engines/*", "/v1/engines/NAME/completions"),
        ("/v1/threads/*", "/v1/threads/runs"),
        ("/v1/responses/*", "/v1/responses/compact"),
    ],
)
def test_a_pattern_that_opens_prompts_beside_deny_rules_is_refused(
    tmp_path: Path, path: str, opened: str
) -> None:
    line, problem = mistake(tmp_path, YAML.replace("PATH", path))
    assert line == 8
    assert (
        f"would let prompts to {opened} pass unchecked, although rule `no-cards` denies requests" in problem
    )
    assert main(["validate", str(write(tmp_path, unrestricted(path)))]) == 0


def unrestricted(path: str) -> str:
    return "".join(
        line for line in YAML.replace("PATH", path).splitlines(True) if not line.startswith("rules")
    )


def test_a_path_that_is_listed_twice_is_reported(tmp_path: Path) -> None:
    assert mistake(tmp_path, YAML.replace("PATH", "POST /v1/embeddings")) == (
        8,
        "'POST /v1/embeddings' is listed twice",
    )


@pytest.mark.parametrize("command", [["validate"], ["envoy-config", "--registry"]])
def test_the_commands_say_what_the_operator_has_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    text = YAML.partition("  paths:")[0]
    assert main([*command, str(write(tmp_path, text))]) == 0
    assert "because rule `no-cards` denies requests" in capsys.readouterr().err

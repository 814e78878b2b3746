"""The command line as an operator uses it, each command in its own words and exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import extproc
from extproc.cli import main
from extproc.routing.rollout import place

CONFIG = Path(__file__).parents[1] / "config"
DEMO = str(CONFIG / "demo.yaml")


@pytest.fixture(autouse=True)
def _needs_the_encoder(encoder_files: object) -> None:
    """Fails with what to do when it is absent."""


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["explain", "--json", "--registry", DEMO, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_minimal_registry_has_three_routes_in_sixty_lines() -> None:
    text = (CONFIG / "minimal.yaml").read_text()
    assert len(text.splitlines()) <= 60
    assert len(yaml.safe_load(text)["routes"]) == 3


def test_validate_prints_file_line_and_expectation_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("models:\n  a: {base_url: 'http://h:1'}\ndefault: b\n")
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"extproc: {path}:3: there is no model `b` (expected one of: a)\n"
    )  # fmt: skip


def test_explain_json_is_one_object_with_every_promised_key(capsys: pytest.CaptureFixture[str]) -> None:
    decision = explained(capsys, "implement quicksort in python")
    promised = {
        "route",
        "model",
        "stage",
        "reason",
        "probability",
        "margin",
        "similarity",
        "in_scope",
        "candidates",
        "version",
    }
    assert promised <= decision.keys()
    assert (decision["route"], decision["model"]) == ("code", "code")
    assert (decision["stage"], decision["reason"]) == ("embedding", "matched")
    assert sum(c["probability"] for c in decision["candidates"]) == pytest.approx(1.0, abs=1e-5)
    assert decision["candidates"][0]["route"] == "code"


def test_explain_leaves_the_scores_of_a_rule_or_a_pin_empty(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, stage in ((["--tool", "browser_open"], "rule"), (["--model", "small"], "pin")):
        decision = explained(capsys, "hello", *arguments)
        assert decision["stage"] == stage
        assert (decision["probability"], decision["margin"], decision["similarity"]) == (None, None, None)
        assert decision["candidates"] == []


def test_explain_shows_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    refusal = explained(capsys, "4111 1111 1111 1111")
    assert refusal["denied"] == "Card numbers may not be sent to a model."
    assert refusal["rule"] == "no-card-numbers"
    assert main(["explain", "--registry", DEMO, "4111 1111 1111 1111"]) == 0
    assert "no-card-numbers" in capsys.readouterr().out


def test_explain_shows_labels_and_a_refusal_for_want_of_a_cleared_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(
        """
models:
  local: {base_url: "http://127.0.0.1:1", cleared_for: [internal, eu]}
  large: {base_url: "http://127.0.0.1:2"}
default: local
trusted_headers: [x-labels]
without_sidecar: refuse
clearance: {header: x-labels}
rules: [{name: secret, when: {keyword: secret}, label: internal}]
"""
    )
    asked = ["explain", "--registry", str(registry), "a secret", "--header"]
    assert main([*asked, "x-labels=eu"]) == 0
    assert re.search(
        r"^labels +eu, internal; cleared for them: local$", capsys.readouterr().out, re.MULTILINE
    )
    assert main([*asked, "x-labels=pii"]) == 0
    assert (
        "No model here may answer a request with the labels internal, pii. (not_cleared)"
        in capsys.readouterr().out
    )
    assert main([*asked[:1], "--json", *asked[1:], "x-labels=pii"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "not_cleared"


def test_explain_for_people_puts_each_score_beside_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--registry", DEMO, "asdkjh qwe zxc"]) == 0
    printed = capsys.readouterr().out
    assert "default: out_of_scope" in printed
    assert re.search(r"^in scope +0\.\d{3} \(below the floor of 0\.\d+\)$", printed, re.MULTILINE)


def test_explain_shows_what_was_read_of_a_turn_with_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    document = (
        "The council approved the repair of the eastern pier. The next meeting is open to the public. " * 4
    )
    assert main(["explain", "--registry", DEMO, f"{document}\n\nimplment quicksort in python"]) == 0
    printed = capsys.readouterr().out
    assert "implement quicksort in python (of the turn: last; misspelt words corrected: 1)" in printed
    assert "code, sent as" in printed
    decision = explained(capsys, "implement quicksort in python")
    assert decision["reading"] == {"text": "implement quicksort in python", "part": "whole", "misspelt": 0}


@pytest.fixture
def half(tmp_path: Path) -> str:
    """The demo, whose code route is switched on for half of the users, and nothing else is."""
    tree = yaml.safe_load(Path(DEMO).read_text())
    tree |= {"mode": "observe", "trusted_headers": ["x-user"], "rollout_key": "X-User"}
    tree["routes"]["code"] |= {"mode": "active", "rollout": "50 %"}
    path = tmp_path / "half.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_explain_says_whether_a_key_is_in(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    def explained(*arguments: str) -> str:
        assert main(["explain", "--registry", half, "implement quicksort in python", *arguments]) == 0
        (mode,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mode ")]
        return " ".join(mode.split())

    share = "mode active for 50 % of the keys"
    sides = {user: "in" if place(user, "code") < 0.5 else "out" for user in ("alice", "bob", "carol")}
    assert set(sides.values()) == {"in", "out"}
    for user, side in sides.items():
        assert (
            explained("--header", f"x-user={user}") == f"{share}; the key of this request (x-user) is {side}"
        )
    assert explained() == f"{share}; without a key, this request is only observed"
    assert explained("--conversation", "c-1").startswith(
        f"{share}; the key of this request (conversation) is "
    )


def test_explain_shows_what_is_only_observed_as_such(half: str, capsys: pytest.CaptureFixture[str]) -> None:
    def explained(*arguments: str) -> str:
        assert main(["explain", "--registry", half, *arguments]) == 0
        return capsys.readouterr().out

    assert "observe: recorded, and the API's default answers" in explained("Good morning!")
    assert "only recorded: the mode is observe" in explained("4111 1111 1111 1111")
    greeting = json.loads(explained("--json", "Good morning!"))
    assert (greeting["mode"], greeting["rollout"], greeting["rollout_key"]) == ("observe", 100.0, "")
    code = json.loads(explained("--json", "implement quicksort in python", "--header", "x-user=alice"))
    assert (code["rollout"], code["rollout_key"]) == (50.0, "x-user")
    assert json.loads(explained("--json", "4111 1111 1111 1111"))["mode"] == "observe"


def test_explain_reads_stdin(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "extproc", "explain", "--json", "--registry", DEMO, "-"],
        input="git merge conflict\nhow to resolve?",
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert json.loads(done.stdout)["route"] == "code"
    assert done.stderr == ""


def test_envoy_config_is_yaml_with_a_cluster_for_every_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["envoy-config", "--registry", DEMO]) == 0
    printed = capsys.readouterr().out
    clusters = {cluster["name"] for cluster in yaml.safe_load(printed)["static_resources"]["clusters"]}
    assert {"model-small", "model-code", "model-guarded"} < clusters
    assert main(["envoy-config", "--registry", DEMO, "--output", str(tmp_path / "e.yaml")]) == 0
    assert (tmp_path / "e.yaml").read_text() == printed


def test_envoy_config_warns_of_keys_that_envoy_could_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_text("key\n")
    path = tmp_path / "r.yaml"
    path.write_text(
        "default: a\nmodels:\n"
        "  a: {base_url: 'http://h:1', auth: {file: absent}}\n"
        "  b: {base_url: 'http://h:1', auth: {file: empty}}\n"
        "  c: {base_url: 'http://h:1', auth: {file: good}}\n"
        "  d: {base_url: 'http://h:1', auth: {env: ROUTER_TEST_ABSENT_KEY}}\n"
    )
    assert main(["envoy-config", "--registry", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"extproc: warning: models.a: cannot read the key file {tmp_path / 'absent'}: No such file or directory",
        f"extproc: warning: models.b: {tmp_path / 'empty'} is empty, so Envoy answers every request with 503",
        f"extproc: warning: models.c: every user can read the key file {tmp_path / 'good'} (expected mode 0600)",
        "extproc: warning: models.d: the environment variable ROUTER_TEST_ABSENT_KEY is not set, so Envoy has no key",
    ]
    assert yaml.safe_load(captured.out)["static_resources"]["clusters"]


def test_xds_writes_the_files_that_envoy_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("default: a\nmodels:\n  a: {base_url: 'http://h:1'}\n")
    nowhere = ["--admin", "127.0.0.1:1"]
    assert main(["envoy-config", "--registry", str(path), "--xds", str(tmp_path / "x"), *nowhere]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'x'}: version ")
    written = {file.name for file in (tmp_path / "x").iterdir()}
    assert written == {"bootstrap.yaml", "cds.json", "lds.json", "rds.json", "status.json"}


def test_one_of_several_sidecars_must_say_which(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "default: a\nmodels:\n  a: {base_url: 'http://h:1'}\nenvoy: {sidecar: [unix:/a, unix:/b]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "extproc", "serve", "--registry", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "envoy.sidecar names 2 processes; choose the address of this one with --listen" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--registry", DEMO, "--listen", "0.0.0.0:50051"], "--listen: 0.0.0.0:50051 is plaintext TCP"),
        (["serve", "--registry", "none.yaml"], "extproc: none.yaml: cannot read the registry: No such file"),
        (["serve", "--registry", DEMO, "--records", "/none/r.jsonl", "--admin", "127.0.0.1:0"], "/none/r.jsonl"),
        (["explain", "--registry", DEMO, "--path", "/v1/files", "hi"], "'/v1/files' is not an LLM path"),
        (["envoy-config", "--registry", DEMO, "--watch"], "--watch requires --xds DIR"),
        (["envoy-config", "--registry", DEMO, "--sidecar", "unix:/s"], "--sidecar requires --xds DIR"),
        (["explain", "--registry", DEMO, "--encoder-dir", "/none", "hi"], "run `extproc model fetch`"),
    ],
)  # fmt: skip
def test_what_an_operator_must_mend_is_one_line_and_status_1(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extproc", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("extproc: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *([], ["serve"], ["validate"], ["explain"], ["envoy-config"], ["model", "fetch"], ["report"]),
        *(["records", "import"], ["records", "schema"], ["feedback", "import"]),
    ],
)
def test_every_command_has_help_that_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"extproc {extproc.__version__}\n"


def test_a_reader_that_leaves_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "extproc", "envoy-config", "--registry", DEMO],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        lines = child.stderr.read().decode().splitlines()
        assert [line for line in lines if not line.startswith("extproc: warning: ")] == []  # of absent keys
        assert child.wait() == 1


CASCADE = """\
models:
  small: {base_url: 'http://h:1', price: {input: 1, output: 1}}
  large: {base_url: 'http://h:2', price: {input: 9, output: 9}}
default: large
gates: {sane: {finish: true, length: {min_chars: 2}, refusal: true}}
cascades:
  frugal:
    tiers: [{model: small, gate: sane, stream: hold, timeout_s: 30}, {model: large}]
    deadline_s: 90
rules: [{name: all, when: {path: '/v1/*'}, route: everyday}]
routes: {everyday: {cascade: frugal}}
"""


def test_explain_shows_the_tiers_and_gates_of_a_cascade(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(CASCADE)
    assert main(["explain", "--registry", str(path), "hello"]) == 0
    assert (
        "cascade     frugal: asked in turn until an answer passes, all within 90 s\n"
        "            1. small, within 30 s: gate sane (finish, length, refusal; streams: hold)\n"
        "            2. large: its answer is kept\n"
    ) in capsys.readouterr().out
    assert main(["explain", "--json", "--registry", str(path), "hello"]) == 0
    cascade = json.loads(capsys.readouterr().out)["cascade"]
    assert (cascade["name"], cascade["deadline_s"]) == ("frugal", 90.0)
    assert [(tier["model"], tier["gate"], tier["checks"]) for tier in cascade["tiers"]] == [
        ("small", "sane", ["finish", "length", "refusal"]),
        ("large", "", []),
    ]

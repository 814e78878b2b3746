"""`extproc validate` holds a registry to its holdout with the encoder that serves."""

from pathlib import Path

import pytest

from extproc.cli import main
from extproc.embedding.encoder_files import EncoderFiles

REGISTRY = """\
models: {a: {base_url: 'http://h:1'}}
default: a
holdout: {data: holdout.jsonl, min_accuracy: 1}
routes:
  code: {candidates: a, examples: [Fix this bug, Write a bash script]}
  poetry: {candidates: a, examples: [Write a sonnet about the sea, Compose a poem on autumn]}
"""
ROWS = """\
{"text": "Write a Python script", "route": "code"}
{"text": "Write a poem about the sea", "route": "poetry"}
"""


@pytest.fixture
def registry(tmp_path: Path, encoder_files: EncoderFiles) -> Path:
    (tmp_path / "holdout.jsonl").write_text(ROWS)
    path = tmp_path / "r.yaml"
    path.write_text(REGISTRY)
    return path


def test_a_registry_that_routes_its_holdout_is_good(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(registry)]) == 0
    assert "; holdout: 2 of 2 rows right (1.000)\n" in capsys.readouterr().out


def test_one_that_does_not_fails_with_the_line(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swapped = REGISTRY.replace("code:", "c:").replace("poetry:", "code:").replace("c:", "poetry:", 1)
    registry.write_text(swapped)
    assert main(["validate", str(registry)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(
        f"extproc: {registry}:3: holdout: 0 of 2 rows right (0.000): below min_accuracy 1;"
    )
    assert "wrong in holdout.jsonl, lines 1, 2" in errors


MISTAKEN = """\
models:
  a: {base_url: 'http://h:1', pric: {input: 1}, apis: nonsense}
  b: {base_url: 'nowhere'}
default: nobody
decision_sm: 200
rules:
  - {name: one, when: {regex: '('}, model: a}
  - {name: one, when: {min_chars: 5}, deny: never, route: r}
routes:
  r: {candidates: c, examples_file: absent.txt}
  s: {candidates: [a, a]}
trusted_headers: [x-router-me]
holdout: {data: none.jsonl, min_accuracy: 2}
"""


def test_every_mistake_is_printed_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, good = tmp_path / "r.yaml", tmp_path / "good.yaml"
    path.write_text(MISTAKEN)
    good.write_text("models: {a: {base_url: 'http://h:1'}}\ndefault: a\n")
    assert main(["validate", str(path), str(good)]) == 1
    printed, errors = capsys.readouterr()
    assert printed.startswith(f"{good}: good: 1 model, 0 routes with 0 examples, 0 rules, ")
    lines = [line.removeprefix(f"extproc: {path}:") for line in errors.splitlines()]
    expected = [
        "2: models.a.apis: must be a list; got text",
        "2: unknown key `pric` (did you mean `price`?",
        "3: models.b.base_url: 'nowhere' is not a valid base URL",
        "4: there is no model `nobody` (expected one of: a, b)",
        "5: unknown key `decision_sm` (did you mean `decision_ms`?",
        "7: regex: missing ): ( (expected RE2 syntax)",
        "8: rule `one`: another rule has this name (expected unique names)",
        "8: rule `one`: expected exactly one of deny, route, model, or a `label`; got deny and route",
        "10: cannot read ",
        "10: there is no model `c`",
        "11: the candidate `a` is listed twice",
        "11: the route `s` can never be chosen",
        "12: `x-router-me` is reserved: Envoy removes",
        "13: cannot read ",
        "13: holdout.min_accuracy: must be a number <= 1.0",
    ]
    assert len(lines) == len(expected), errors
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


HALF_READ = """\
models:
  a: {name: x, endpoints: [7, {address: nowhere}], price: {input: 1}}
  b: {apis: [openai.chats], health_check: {path: health}}
  c: [nonsense]
default: {openai.chat: a, openai.completions: d}
rules:
  - {when: {regex: '('}, model: d}
  - {name: two, deny: never, route: r}
  - nonsense
  - {name: three, when: {keyword: [7, '']}}
routes:
  r: {candidates: [7, d, a, b], fallback: [7, d], examples: [hi, 7]}
  s: {candidates: [a], examples: [hi], thresholds: {margn: 1}}
  t: {cascade: one, examples: [there]}
  u: {cascade: two, candidates: d, examples: [hello]}
cascades:
  one:
    tiers:
      - {gate: nothing}
      - nonsense
      - {model: d, retry: {statuses: [7]}}
  two: {deadline_s: soon}
gates:
  g: {second: {agreemnt: 1}, finish: yes, verifier: {model: d}}
passthrough: {paths: [nowhere, 7, /v1/chat/completions]}
trusted_headers: [7, x-router-me]
rollout_key: x-user
holdout: {data: none.jsonl}
envoy: {sidecar: [7, nowhere], cors: {}, admin: nowhere}
feedback: {}
"""


def test_what_cannot_be_read_hides_no_mistake_beside_it_and_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(HALF_READ)
    assert main(["validate", str(path)]) == 1
    errors = capsys.readouterr().err
    lines = [line.removeprefix(f"extproc: {path}:") for line in errors.splitlines()]
    expected = [
        "2: 'nowhere' is not a valid address",
        "2: models.a.endpoints.0: must be a mapping with `address`; got a whole number",
        "2: models.a.price: missing key `output`",
        "2: models.a: missing key `base_url`",
        "3: 'health' is not a valid path",
        "3: models.b.apis.0: must be one of ",
        "3: models.b: missing key `base_url`",
        "4: models.c: must be a mapping with `base_url`; got a list",
        "5: `a` speaks openai.responses, but this API has no default model",
        "5: there is no model `d`",
        "7: regex: missing ): (",
        "7: rules.0: missing key `name`",
        "7: there is no model `d`",
        "8: rule `two`: expected exactly one of deny, route, model, or a `label`; got deny and route",
        "8: rules.1: missing key `when`",
        "9: rules.2: must be a mapping with `name` and `when`; got text",
        "10: keyword: must not be empty",
        "10: rule `three`: expected exactly one of deny, route, model, or a `label`; got none",
        "10: rules.3.when.keyword.0: must be text; got a whole number",
        "12: b has no price, so the cheapest of a, b is unknown",
        "12: routes.r.candidates.0: must be text; got a whole number",
        "12: routes.r.examples.1: must be text; got a whole number",
        "12: routes.r.fallback.0: must be text; got a whole number",
        "12: there is no model `d`",
        "13: 'hi' is an example of both `r` and `s`",
        "13: unknown key `margn`",
        "15: there is no model `d`",
        "19: cascades.one.tiers.0: missing key `model`",
        "19: there is no gate `nothing`",
        "20: cascades.one.tiers.1: must be a mapping with `model`; got text",
        "21: cascades.one.tiers.2.retry.statuses.0: must be a whole number >= 400",
        "21: there is no model `d`",
        "22: cascades.two.deadline_s: must be a number; got text",
        "22: cascades.two: missing key `tiers`",
        "24: gates.g.second: missing key `model`",
        "24: the gate `g` has both `second` and `verifier`",
        "24: there is no model `d`",
        "24: unknown key `agreemnt`",
        "25: '/v1/chat/completions' would let prompts to /v1/chat/completions",
        "25: 'nowhere' is not a valid path",
        "25: passthrough.paths.1: must be text; got a whole number",
        "25: passthrough: missing key `base_url`",
        "26: `x-router-me` is reserved: Envoy removes x-router-* headers from every request",
        "26: trusted_headers.0: must be text; got a whole number",
        "28: cannot read ",
        "28: holdout: missing key `min_accuracy`",
        "29: envoy.admin: 'nowhere' is not a valid address",
        "29: envoy.cors: missing key `origins`",
        "29: envoy.sidecar.0: must be text; got a whole number",
        "29: envoy.sidecar: 'nowhere' is not a valid address",
        "30: feedback: missing key `token`",
    ]
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_a_section_whose_names_cannot_be_read_hides_no_mistake_of_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "models: [a]\ndefault: a\nroutes:\n  r: {candidates: a, timeout_s: soon}\ndecision_ms: 0\n"
    )
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"extproc: {path}:1: models: must be a mapping from names to models; got a list",
        f"extproc: {path}:4: routes.r.timeout_s: must be a number; got text",
        f"extproc: {path}:5: decision_ms: must be a whole number >= 1",
    ]


def test_what_names_an_entry_that_cannot_be_read_is_no_mistake_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "models: {a: {name: x}}\ndefault: a\nroutes:\n  r: {candidates: a, timeout_s: soon, examples: [hi]}\n"
    )
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"extproc: {path}:1: models.a: missing key `base_url`",
        f"extproc: {path}:4: routes.r.timeout_s: must be a number; got text",
    ]


def test_others_print_the_first_mistake_and_how_many_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("models: {a: {base_url: 'http://h:1'}}\ndefault: b\nreference: c\n")
    assert main(["envoy-config", "--registry", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"extproc: {path}:2: there is no model `b` (expected one of: a) "
        "(and 1 more; `extproc validate` prints all)\n"
    )


DENYING = """\
models: {a: {base_url: 'http://h:1'}}
default: a
rules: [{name: no-keys, when: {keyword: key}, deny: No keys.}]
"""


@pytest.mark.parametrize("written", ["", "without_sidecar: {openai.chat: refuse}\n"])
def test_deny_rules_without_a_choice_of_what_happens_without_a_sidecar_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(DENYING + written)
    assert main(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    (warning,) = (line for line in out.splitlines() if line.startswith(f"{path}: warning: "))
    assert "only the sidecar refuses requests (no-keys)" in warning
    assert ("openai.chat" in warning) is not written.startswith("without")
    assert "openai.completions" in warning
    assert "`without_sidecar: refuse`" in warning
    assert "`without_sidecar: default`" in warning


@pytest.mark.parametrize("registry", [DENYING + "without_sidecar: default\n", DENYING.partition("rules")[0]])
def test_no_warning_where_the_choice_is_made_or_nothing_is_denied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], registry: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(registry)
    assert main(["validate", str(path)]) == 0
    assert ": warning: " not in capsys.readouterr().out


SPANISH = """
models: {a: {base_url: 'http://h:1'}}
default: a
routes: {money: {candidates: a, examples: ["what is my balance?", "¿cuánto dinero tengo en la cuenta?"]}}
"""


def test_examples_in_a_language_that_is_not_listed_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SPANISH)
    assert main(["validate", str(path)]) == 0
    assert "languages that `encoder.languages` does not list (es: 1)" in capsys.readouterr().out


@pytest.mark.parametrize("languages", ["[en, es]", "[any]"])
def test_examples_in_a_listed_language_are_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], languages: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{SPANISH}encoder: {{languages: {languages}}}\n")
    assert main(["validate", str(path)]) == 0
    assert ": warning: " not in capsys.readouterr().out


def test_the_multilingual_encoder_reads_every_language_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{SPANISH}encoder: {{model: multilingual-e5-small}}\n")
    assert main(["validate", str(path)]) == 0
    assert ": warning: " not in capsys.readouterr().out


def test_a_fast_path_is_refused_with_an_encoder_that_has_no_static_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{SPANISH}encoder: {{model: multilingual-e5-small}}\nartefact: a\nfast_path: {{}}\n")
    assert main(["validate", str(path)]) == 1
    assert "static vectors of all-MiniLM-L6-v2, which multilingual-e5-small" in capsys.readouterr().err


def test_an_unknown_language_is_a_mistake_that_names_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SPANISH + "encoder: {languages: [english]}\n")
    assert main(["validate", str(path)]) == 1
    assert "must be one of any, en, de" in capsys.readouterr().err

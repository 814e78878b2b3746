"""``llm``: what is refused, and what the rest compiles to."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from extproc.envoyconf.http_filters import ext_proc
from extproc.errors import RegistryError
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from tests.registry.test_rollout import OneVector

BASE = """\
models:
  small: {base_url: "http://127.0.0.1:1", name: org/small-8b, price: {input: 1, output: 2}}
  free: {base_url: "http://127.0.0.1:2"}
  claude: {base_url: "http://127.0.0.1:3", apis: [anthropic.messages]}
  theirs: {base_url: "http://127.0.0.1:4", auth: passthrough}
default: {openai.chat: small, openai.completions: small, openai.responses: small, anthropic.messages: claude}
"""
ROUTES = """\
routes:
  chat: {candidates: small, description: Small talk, examples: [hi, hello, hey, good day]}
  work: {candidates: small, examples: [plan]}
"""


def written(folder: Path, llm: str, routes: str = ROUTES) -> Path:
    path = folder / "registry.yaml"
    path.write_text(f"{BASE}{routes}llm: {llm}\n")
    return path


@pytest.mark.parametrize(
    ("llm", "routes", "problem"),
    [
        ("{model: nobody}", ROUTES, "there is no model `nobody`"),
        ("{model: claude}", ROUTES, "llm: cannot ask `claude` (expected a model that speaks openai.chat)"),
        ("{model: theirs}", ROUTES, "llm: cannot ask `theirs`, which needs the client's own key"),
        ("{model: free, dollars_per_hour: 1}", ROUTES, "the model `free` has no `price`"),
        ("{model: small}", "", "there are no `routes` to choose from"),
        ("{model: small}", ROUTES.replace("work:", "none:"), "routes.none: with `llm`, this word means"),
        ("{model: small, max_share: 2}", ROUTES, "llm.max_share"),
        ("{}", ROUTES, "llm: missing key `model`"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, llm: str, routes: str, problem: str) -> None:
    with pytest.raises(RegistryError) as refused:
        load(written(tmp_path, llm, routes))
    assert problem in str(refused.value)


def test_the_policy_shows_the_llm_each_route_and_knows_the_price(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, "{model: small, examples: 2, deadline_ms: 900}"))
    policy = compile_snapshot(loaded, OneVector()).llm
    assert policy is not None
    assert (policy.upstream_model, policy.routes, policy.deadline_s) == (
        "org/small-8b",
        ("chat", "work"),
        0.9,
    )
    assert policy.price is not None
    assert policy.price.output == pytest.approx(2e-6)
    assert [msgspec.json.decode(line) for line in policy.system.splitlines()[-2:]] == [
        {"route": "chat", "description": "Small talk", "examples": ["hi", "hello"]},
        {"route": "work", "examples": ["plan"]},
    ]


def test_envoy_may_be_asked_to_wait_only_where_an_llm_may_be_asked(tmp_path: Path) -> None:
    with_llm = load(written(tmp_path, "{model: small, deadline_ms: 900}")).registry
    without = load(written(tmp_path, "null")).registry
    assert ext_proc(with_llm).max_message_timeout == timedelta(seconds=1.4)
    assert ext_proc(without).max_message_timeout is None
    assert ext_proc(with_llm).message_timeout == ext_proc(without).message_timeout

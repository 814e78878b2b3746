"""``mode``, ``rollout`` and their headers: what is refused, and what the rest comes to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extproc.errors import RegistryError
from extproc.registry.checks.route_checks import share_of
from extproc.registry.registry_loading import load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.rollout import Rollout
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Api, Mode, Served, Terms

BASE = """\
models:
  small: {base_url: "http://127.0.0.1:1", name: org/small-8b, provider: vllm}
default: small
trusted_headers: [X-User, x-chat]
routes:
  chat:
    candidates: small
    examples: [hi]
  work:
    candidates: small
    examples: [plan]
"""


class OneVector:
    """An encoder to which all texts are the same."""

    name = "one"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 1), np.float32)


def snapshot(folder: Path, more: str = "", of_chat: str = "") -> Snapshot:
    return compile_snapshot(load(written(folder, more, of_chat)), OneVector())


def written(folder: Path, more: str, of_chat: str) -> Path:
    path = folder / "registry.yaml"
    path.write_text(BASE.replace("    examples: [hi]\n", f"    examples: [hi]\n{of_chat}") + more)
    return path


def test_without_a_word_all_is_obeyed(tmp_path: Path) -> None:
    made = snapshot(tmp_path)
    assert made.rollout == Rollout(Mode.ACTIVE, 1.0)
    assert {route.rollout for route in made.routes.values()} == {Rollout(Mode.ACTIVE, 1.0)}
    assert made.terms == Terms(
        defaults=dict.fromkeys(made.defaults, Served("small", "org/small-8b", "vllm")),
    )
    assert Api.OPENAI_CHAT in made.terms.defaults


def test_a_route_follows_the_registry_until_it_says_otherwise(tmp_path: Path) -> None:
    made = snapshot(tmp_path, "mode: observe\nrollout: 20\n", "    mode: active\n    rollout: 5.5 %\n")
    assert made.rollout == made.routes["work"].rollout == Rollout(Mode.OBSERVE, 0.2)
    assert made.routes["chat"].rollout == Rollout(Mode.ACTIVE, 0.055)
    assert made.terms.mode is Mode.OBSERVE


def test_headers_are_found_as_envoy_spells_them(tmp_path: Path) -> None:
    made = snapshot(tmp_path, "rollout_key: X-USER\nconversation_header: X-Chat\n")
    assert (made.rollout_key, made.terms.conversation_header) == ("x-user", "x-chat")


@pytest.mark.parametrize(
    ("percent", "share"),
    [(0, 0.0), (100, 1.0), (12.5, 0.125), ("10 %", 0.1), ("10%", 0.1), (" 0.5 % ", 0.005), ("100 %", 1.0)],
)
def test_a_percentage_is_a_share(percent: float | str, share: float) -> None:
    assert share_of(percent) == pytest.approx(share)


@pytest.mark.parametrize(
    "bad", ["101", "-1", ".nan", ".inf", "'10'", "120 %", "'% 10'", "ten", "1e1 %", "''"]
)
def test_a_rollout_that_is_no_percentage_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(
        RegistryError, match=r"registry.yaml:12: rollout: .* is not a percentage \(expected 0 to"
    ):
        load(written(tmp_path, f"rollout: {bad}\n", ""))
    with pytest.raises(RegistryError, match=r"registry.yaml:9: routes.chat.rollout: .* is not a percentage"):
        load(written(tmp_path, "", f"    rollout: {bad}\n"))


@pytest.mark.parametrize("line", ["rollout: true", "rollout: [10]", "mode: shadow", "mode: ''"])
def test_words_that_are_none_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(RegistryError, match=f"registry.yaml:12: {line.partition(':')[0]}: "):
        load(written(tmp_path, f"{line}\n", ""))


@pytest.mark.parametrize("key", ["rollout_key", "conversation_header"])
def test_a_header_that_clients_may_send_cannot_be_the_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(
        RegistryError, match=f"registry.yaml:12: {key}: .*clients could set the header.* x-chat, x-user"
    ):
        load(written(tmp_path, f"{key}: x-other\n", ""))

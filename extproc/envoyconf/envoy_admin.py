"""What a running Envoy is asked: which versions it took, which clusters are active, what it logged."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import urlencode

import msgspec

from extproc.errors import RouterError

_TIMEOUT_S = 5.0
_LOG_STATS = "access_logs.grpc_access_log."
_SUFFIXES = ("version_text", "update_rejected", "update_failure")


class Unreachable(RouterError):
    """There is no Envoy at its admin address, or it is not well."""


class Taken(msgspec.Struct, frozen=True):
    """What became of one kind of resource."""

    version: str = ""
    refusals: int = 0  # since Envoy started


class LogEntryCounts(msgspec.Struct, frozen=True):
    """How much an Envoy told the sidecars of finished exchanges and attempts, since it started."""

    since: datetime  # when it started, to a second
    entries: int  # one each
    dropped: int  # of these, those that it gave up; others may be lost without its knowing


class Admin:
    """Envoy's admin interface at ``HOST:PORT``."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def taken(self) -> Mapping[str, Taken]:
        """By the name under which Envoy counts, e.g. ``cluster_manager.cds``. Raises ``Unreachable``."""
        text = await self._get("/stats", filter=rf"\.({'|'.join(_SUFFIXES)})$")
        return taken(text)

    async def active_clusters(self) -> frozenset[str]:
        """The dynamic clusters that requests can be sent to. Raises ``Unreachable``."""
        mask = "cluster.name,version_info"
        text = await self._get("/config_dump", resource="dynamic_active_clusters", mask=mask)
        return frozenset(entry["cluster"]["name"] for entry in json.loads(text).get("configs", ()))

    async def log_entry_counts(self, now: datetime) -> LogEntryCounts:
        """What it says of its access log stream. Raises ``Unreachable``."""
        info = json.loads(await self._get("/server_info"))
        return log_entry_counts(
            await self._get("/stats", filter=_LOG_STATS), info["uptime_current_epoch"], now
        )

    async def _get(self, path: str, **query: str) -> str:
        return await asyncio.to_thread(self._ask, f"{path}?{urlencode(query)}")

    def _ask(self, target: str) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=_TIMEOUT_S)
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
    """Envoy's page ``/stats`` and its word for how long it runs, as ``90s``, in our words."""
    counts = {name: int(value) for name, _, value in (line.partition(": ") for line in stats.splitlines())}
    written, dropped = (counts.get(f"{_LOG_STATS}{name}", 0) for name in ("logs_written", "logs_dropped"))
    return LogEntryCounts(
        now - timedelta(seconds=float(uptime.removesuffix("s")) + 1), written + dropped, dropped
    )


def taken(stats: str) -> dict[str, Taken]:
    """Envoy's page ``/stats`` in our words."""
    versions: dict[str, str] = {}
    refusals: dict[str, int] = {}
    for line in stats.splitlines():
        name, _, value = line.partition(": ")
        kind, _, suffix = name.rpartition(".")
        if suffix == "version_text":
            versions[kind] = value.strip('"')
        elif suffix in _SUFFIXES:
            refusals[kind] = refusals.get(kind, 0) + int(value)
    return {kind: Taken(versions.get(kind, ""), refusals.get(kind, 0)) for kind in {*versions, *refusals}}

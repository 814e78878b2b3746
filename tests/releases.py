"""Releases as small as a test needs."""

from pathlib import Path

from extproc.registry.model_settings import Model
from extproc.registry.releases import Release, Releases
from extproc.registry.schema import Registry
from extproc.routing.snapshot import Snapshot
from extproc.vocabulary import Terms


def release(version: str, terms: Terms | None = None) -> Release:
    """A release that decides nothing."""
    return Release(
        registry=Registry(models={"m": Model(base_url="http://127.0.0.1:1")}, default="m"),
        directory=Path(),
        snapshot=Snapshot(
            version=version, targets={}, routes={}, defaults={}, deny_rules=(), route_rules=(), meaning=None,
            budget_s=1.0, terms=terms or Terms(),
        ),
    )  # fmt: skip


def one_release(terms: Terms | None = None) -> Releases:
    """Only version ``v1``."""
    return Releases(release("v1", terms), clock=lambda: 0.0)

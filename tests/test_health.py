"""Readiness is the conjunction of the named components."""

import pytest

from extproc.health import Components


@pytest.mark.parametrize("registry", [False, True])
@pytest.mark.parametrize("encoder", [False, True])
def test_ready_only_when_every_component_is(registry: bool, encoder: bool) -> None:
    components = Components("registry", "encoder")
    components.report("registry", ready=registry)
    components.report("encoder", ready=encoder)
    assert components.ready is (registry and encoder)


def test_a_component_that_never_reports_keeps_the_process_unready() -> None:
    components = Components("registry", "encoder")
    components.report("registry", ready=True)
    assert not components.ready
    assert components.snapshot()["encoder"] == (False, "starting")


def test_the_detail_is_that_of_the_last_report() -> None:
    components = Components("registry")
    components.report("registry", ready=True, detail="version 1")
    components.report("registry", ready=False, detail="routes.yaml:3: unknown model")
    assert components.snapshot() == {"registry": (False, "routes.yaml:3: unknown model")}


def test_a_component_that_was_not_named_at_the_start_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="encodr"):
        Components("encoder").report("encodr", ready=True)


def test_draining_is_for_good_and_shows() -> None:
    components = Components("registry")
    components.report("registry", ready=True)
    components.drain()
    components.report("registry", ready=True, detail="reloaded")
    assert not components.ready
    assert components.snapshot() == {"registry": (True, "reloaded"), "draining": (False, "shutting down")}


def test_a_snapshot_is_one_moment() -> None:
    components = Components("registry")
    before = components.snapshot()
    components.report("registry", ready=True)
    assert before == {"registry": (False, "starting")}


def test_listeners_are_called_after_every_change() -> None:
    components = Components("registry")
    heard: list[bool] = []
    components.listen(lambda: heard.append(components.ready))
    components.report("registry", ready=True)
    components.drain()
    assert heard == [True, False]

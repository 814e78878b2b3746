"""The reference pages say what the code says."""

import pytest

from docs.every_metric import instruments, prometheus_name
from docs.generate import REFERENCE, pages
from extproc.telemetry.metrics import Metrics

PAGES = pages()


@pytest.mark.parametrize("page", PAGES)
def test_a_reference_page_is_fresh(page: str) -> None:
    assert (REFERENCE / page).read_text() == PAGES[page], "run `.venv/bin/python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_reference_page_has_a_meaning(page: str) -> None:
    assert [line for line in PAGES[page].splitlines() if line.endswith(("|  |", "| |"))] == []


def test_every_metric_on_the_page_of_a_sidecar_is_listed_by_its_name_there() -> None:
    metrics = Metrics()
    metrics.failed("decide")
    metrics.watch_encoder(model="m", device="cpu", precision="int8", waiting=lambda: 0)
    shown = {
        line.split()[2]
        for line in metrics.render().decode().splitlines()
        if line.startswith("# TYPE ") and not line.startswith(("# TYPE process_", "# TYPE target_info"))
    }
    metrics.close()
    assert shown
    assert shown <= {prometheus_name(name, kind, unit) for name, kind, unit, _ in instruments()}

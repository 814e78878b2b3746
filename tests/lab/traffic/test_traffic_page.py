"""The page is whole, light, safe and says what the report says."""

import re
from html.parser import HTMLParser

import pytest

from extproc.lab.store.record_store import Store
from extproc.lab.traffic.traffic_page import as_page
from extproc.lab.traffic.traffic_reading import read_report
from extproc.lab.traffic.traffic_report import TrafficReport
from extproc.lab.traffic.traffic_text import as_text
from tests.lab.traffic.conftest import Traffic, emptied, put_into, traffic_by


@pytest.fixture(scope="module")
def made(opened: Store, tmp_path_factory: pytest.TempPathFactory) -> TrafficReport:
    store = emptied(opened)
    traffic = traffic_by(put_into(store, tmp_path_factory.mktemp("segments")))
    money = {"cost_usd": 0.01, "reference_cost_usd": 0.1}
    traffic("chat", "small", 600, good=0.96, margin=0.6, input_tokens=10, output_tokens=20, **money)
    traffic("legal", "small", 200, good=lambda day: 0.95 if day < 11 else 0.3, margin=0.5, **money)
    traffic("rare", "<b>&", 5, good=1.0)
    found = read_report(store)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def page(made: TrafficReport) -> str:
    return as_page(made)


class Reader(HTMLParser):
    """The texts, in order, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_needs_nothing_else_and_is_light(page: str) -> None:
    read = Reader(page)
    assert read.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in read.tags}
    assert not re.search(r"https?://|@import|url\(", page)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.tags
    assert len(page.encode()) < 40_000


def test_the_rotting_route_is_the_first_thing_that_is_told(made: TrafficReport, page: str) -> None:
    texts = " ".join(Reader(page).texts)
    worst = texts[texts.index("Worst first") :]
    assert worst.index("legal → small") < worst.index("feedback fell from 0.9") < worst.index("Quality")
    text = as_text(made)
    assert text.index("legal") < text.index("chat")
    assert re.search(r"legal -> small +feedback fell from 0\.9\d\d to 0\.[23]\d\d since 2026-11-11", text)


def test_every_slice_is_in_the_tables_and_names_are_escaped(made: TrafficReport, page: str) -> None:
    assert "<b>&" not in page.replace("<b>&nbsp;", "")
    assert "&lt;b&gt;&amp;" in page
    for part in made.slices:
        assert page.count(f"<td>{part.route}</td>") == 2


def test_few_samples_are_marked_in_both(made: TrafficReport, page: str) -> None:
    assert re.search(r"rare .*1\.000 \[0\.566, 1\.000\]\?", as_text(made))
    assert 'class="few"' in page
    assert 'class="mean few"' in page


def test_a_wide_table_scrolls_in_a_box_that_has_a_name(page: str) -> None:
    boxes = [tag for _, tag in Reader(page).tags if tag.get("class") == "wide"]
    assert len(boxes) == 2
    for box in boxes:
        assert (box["role"], box["tabindex"]) == ("region", "0")
        assert box["aria-label"]


def test_plots_are_drawn_of_quality_time_and_cost(page: str) -> None:
    titles = re.findall(r'<svg role="img"[^>]*><title>([^<]*)</title>', page)
    assert titles == ["feedback", "legal", "chat", "rare", "Cost"]
    assert not re.search(r"NaN|nan|None|inf\b", re.sub(r"<style>.*?</style>", "", page))


def test_a_report_of_nothing_but_requests_is_a_page_too(store: Store, traffic: Traffic) -> None:
    traffic("", "", 3, good=None)
    found = read_report(store)
    assert found is not None
    page = as_page(found)
    assert "Nothing is certainly bad." in page
    assert "prices or usage are not known" in page
    assert "nothing is certainly bad" in as_text(found)

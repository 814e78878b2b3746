"""A report's figures, by hand on a set of eight rows, and its two faces for people."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from extproc.lab.datasets import read_routes, routes_in
from extproc.lab.measure.evaluation_page import as_page
from extproc.lab.measure.evaluation_report import FIGURES, Report, evaluate
from extproc.lab.measure.evaluation_text import as_text
from extproc.lab.measure.replay import CandidateRegistry
from extproc.routing.text_changes import TextChange
from tests.lab.conftest import REGISTRY, candidate_of


@pytest.fixture
def report(candidate: CandidateRegistry, data: Path) -> Report:
    return evaluate(candidate, routes_in(data))


def test_figures_by_hand(report: Report) -> None:
    # "greetings" shares no word with an example and abstains; so do rain and the refused password.
    # "hello code" goes to either route: the only stray, if it is one.
    assert (report.rows, report.inside, report.outside) == (8, 5, 3)
    assert report.figures["kept"].value == pytest.approx(4 / 5)
    assert report.figures["stability"].value == pytest.approx(1 / 2)
    assert report.seen == 1  # "good morning friend" is an example
    strays = sum(report.confusion[2][:2])
    assert report.figures["accuracy"].value == pytest.approx((4 + 3 - strays) / 8)
    assert report.figures["outside_kept"].value == pytest.approx(strays / 3)
    assert [route.recall.value for route in report.routes] == [1.0, pytest.approx(2 / 3)]
    assert report.confusion[1] == [0, 2, 1]


def test_every_figure_is_inside_its_interval(report: Report) -> None:
    for name, figure in report.figures.items():
        if name != "accuracy_weighted":
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9, name
    assert list(report.figures) == list(FIGURES)


def test_rows_drawn_from_traffic_weigh_as_many_requests_as_they_stand_for(
    candidate: CandidateRegistry, data: Path
) -> None:
    data.write_text(
        '{"text": "hello friend", "route": "greeting", "weight": 6}\n'
        '{"text": "greetings", "route": "greeting", "weight": 2}\n'
    )
    figures = evaluate(candidate, routes_in(data)).figures
    assert figures["accuracy"].value == pytest.approx(1 / 2)
    assert figures["accuracy_weighted"].value == pytest.approx(6 / 8)
    data.write_text(data.read_text().replace("6", "2"))
    assert math.isnan(evaluate(candidate, routes_in(data)).figures["accuracy_weighted"].value)


def test_a_row_without_scores_counts_as_decided_but_not_for_what_needs_scores(report: Report) -> None:
    assert sum(b.rows for b in report.reliability) == 5
    assert report.reasons["denied"] == 1
    assert report.operating_point[0] == pytest.approx((4 + sum(report.confusion[2][:2])) / 8)


def test_baselines_stand_beside_it_with_a_paired_lead(report: Report) -> None:
    assert [b.name for b in report.baselines] == ["random", "prompt length", "nearest centroid"]
    for baseline in report.baselines:
        ahead = report.figures["accuracy_inside"].value - baseline.accuracy.value
        assert baseline.lead.value == pytest.approx(ahead)


def test_mistakes_show_wrong_routes_before_abstentions(report: Report) -> None:
    assert {m.text for m in report.mistakes} <= {"hello code", "greetings"}
    assert report.mistakes[-1].decided == ""


def test_json_has_null_where_the_data_cannot_tell(candidate: CandidateRegistry, data: Path) -> None:
    data.write_text('{"text": "hello friend", "route": "greeting"}\n')
    plain = msgspec.json.decode(msgspec.json.encode(evaluate(candidate, routes_in(data))))
    assert plain["figures"]["auroc_margin"] == {"value": None, "low": None, "high": None}
    assert plain["figures"]["stability"]["value"] is None
    assert plain["routes"][0]["recall"]["value"] is None


@pytest.mark.parametrize("texts", [['"route": null'], ['"route": "code"']])
def test_sets_with_one_side_only_are_told_without_warnings(
    candidate: CandidateRegistry, data: Path, texts: list[str]
) -> None:
    data.write_text("".join(f'{{"text": "some words {i}", {kind}}}\n' for i, kind in enumerate(texts * 3)))
    report = evaluate(candidate, routes_in(data))
    assert as_text(report)
    assert as_page(report)


def test_a_registry_of_rules_alone_can_be_measured(tmp_path: Path) -> None:
    rules_only = REGISTRY.partition("  - name: bugs")[0]
    data = tmp_path / "d.jsonl"
    data.write_text('{"text": "anything", "route": null}\n')
    report = evaluate(candidate_of(tmp_path / "r.yaml", rules_only), routes_in(data))
    assert report.figures["accuracy"].value == 1.0
    assert math.isnan(report.figures["ece"].value)
    assert "no_routes 1" in as_text(report)
    assert as_page(report)


def test_the_terminal_shows_the_matrix_and_warns_of_memory(report: Report) -> None:
    text = as_text(report)
    assert re.search(r"^truth \\ decided +code +greeting +abstained$", text, re.MULTILINE)
    assert re.search(r"^greeting +\. +2 +1$", text, re.MULTILINE)
    assert "the registry has 1 row as examples: these measure its memory" in text
    assert max(map(len, text.splitlines()[2:])) < 125


def test_no_text_can_steer_the_terminal(candidate: CandidateRegistry, data: Path) -> None:
    data.write_text('{"text": "hello \\u001b[2J friend", "route": null}\n')
    text = as_text(evaluate(candidate, routes_in(data)))
    assert "hello \ufffd[2J friend" in text
    assert "\x1b" not in text


def test_many_routes_show_their_largest_confusions_instead(tmp_path: Path) -> None:
    names = [f"route{i}" for i in range(13)]
    registry = (
        REGISTRY.partition("rules:")[0]
        + "routes:\n"
        + "".join(
            f"  {name}: {{candidates: small, examples: [word{i} thing, word{i} stuff]}}\n"
            for i, name in enumerate(names)
        )
    )
    data = tmp_path / "d.jsonl"
    rows = [f'{{"text": "word{(i + (i == 3)) % 13}", "route": "{name}"}}\n' for i, name in enumerate(names)]
    data.write_text("".join(rows * 2))
    candidate = candidate_of(tmp_path / "r.yaml", registry)
    assert len(read_routes(data, names)) == 26
    report = evaluate(candidate, routes_in(data))
    assert re.search(r"^route3 +route4 +2$", as_text(report), re.MULTILINE)
    assert "<td>route3</td><td>route4</td><td>2</td>" in as_page(report)


class Structure(HTMLParser):
    """Checks that tags close in order, and gathers what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "data"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_decisions_that_another_way_of_writing_changes_are_reported(
    candidate: CandidateRegistry, data: Path
) -> None:
    """An encoder that counts words does not know a misspelt one, so a text of one word flips."""
    data.write_text('{"text": "python", "route": "code"}\n{"text": "x y", "route": null}\n')
    report = evaluate(candidate, routes_in(data))
    assert list(report.flips) == list(TextChange)
    assert report.flips["typo"].value == 1 / 2
    assert 0 < report.flips["typo"].low < 1 / 2 < report.flips["typo"].high < 1
    assert re.search(r"^typo +50.0% .* a typing mistake in one word$", as_text(report), re.MULTILINE)
    assert "Written in another way" in as_page(report)
    assert msgspec.json.decode(msgspec.json.encode(report))["flips"]["typo"]["value"] == 1 / 2


def test_rows_of_several_languages_are_reported_by_language(candidate: CandidateRegistry, data: Path) -> None:
    data.write_text(
        '{"text": "hello friend", "route": "greeting"}\n'
        '{"text": "python", "route": "code", "language": "fi"}\n'
        '{"text": "wann kommt der nächste Zug", "route": "code"}\n'
        '{"text": "hello my friend", "route": "greeting"}\n'
    )
    report = evaluate(candidate, routes_in(data))
    found = {
        each.language: (each.rows, each.accuracy.value, each.abstained.value) for each in report.languages
    }
    assert found == {"en": (2, 1.0, 0.0), "de": (1, 0.0, 1.0), "fi": (1, 1.0, 0.0)}
    assert [each.language for each in report.languages] == ["en", "de", "fi"]
    assert math.isnan(report.languages[1].right_of_kept.value)
    assert re.search(r"^de +1 +0.000 ", as_text(report), re.MULTILINE)
    assert "<h2>Languages" in as_page(report)
    assert msgspec.json.decode(msgspec.json.encode(report))["languages"][0]["language"] == "en"


def test_rows_of_one_language_have_no_table_of_languages(report: Report) -> None:
    assert report.languages == []
    assert "abstained in scope" not in as_text(report)
    assert "<h2>Languages" not in as_page(report)


def test_flips_of_many_rows_are_measured_only_on_request(candidate: CandidateRegistry, data: Path) -> None:
    data.write_text('{"text": "python", "route": "code"}\n' * 201)
    plain = evaluate(candidate, routes_in(data))
    assert plain.flips == {}
    assert "Written in another way" not in as_page(plain)
    assert "typing mistake" not in as_text(plain)
    assert evaluate(candidate, routes_in(data), flips=True).flips["typo"].value == 1.0


def test_the_page_is_well_formed_and_fetches_nothing(candidate: CandidateRegistry, data: Path) -> None:
    evil = "<script>alert(1)</script> hello friend"
    data.write_text(data.read_text() + msgspec.json.encode({"text": evil, "route": None}).decode() + "\n")
    page = as_page(evaluate(candidate, routes_in(data)))
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert structure.fetched == []
    assert "<script" not in page
    assert evil in structure.words
    assert page.count("<svg") == 3
    assert "url(" not in page


def test_every_table_and_the_matrix_scroll_in_boxes_that_have_names(report: Report) -> None:
    page = as_page(report)
    boxes = re.findall(r'<div class="wide" role="region" tabindex="0" aria-label="([^"]+)"><(\w+)', page)
    assert [tag for _, tag in boxes].count("table") == page.count("<table") > 3
    assert ("confusion matrix", "svg") in boxes

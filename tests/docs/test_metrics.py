"""Metrics that the guides name exist, with the labels that their expressions select."""

import re

from docs.every_metric import labels_by_metric
from extproc.vocabulary import Reason
from tests.docs.pages import GUIDES

TEXT = "\n".join(path.read_text() for path in GUIDES).replace("\\|", "|")  # as in a table
LABELS = labels_by_metric()


def test_every_metric_that_a_guide_names_exists() -> None:
    labels = set().union(*LABELS.values())
    named = set(re.findall(r"(?<![\w.])((?:router|gen_ai|process)_[a-z_]+\w)(?![\w.(])", TEXT))
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in LABELS}
    assert named
    assert sorted(named - stems - labels - LABELS.keys() - {"router_unavailable"}) == []


def test_labels_of_an_expression_are_labels_of_its_metric() -> None:
    selected = re.findall(r"(router_\w+)\{([^}]*)\}", TEXT)
    assert selected
    for name, selectors in selected:
        assert set(re.findall(r"(\w+)=", selectors)) <= LABELS[name], name


def test_reasons_that_an_expression_selects_are_ours() -> None:
    named = "|".join(re.findall(r'router_reason=~?"([^"]*)"', TEXT)).split("|")
    assert set(named) <= {reason.value for reason in Reason}

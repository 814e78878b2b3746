"""A version decides only when it routes its holdout well enough, and says what it does not."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from extproc.errors import HoldoutFailed, RegistryError
from extproc.registry.holdout_check import Passed, examine
from extproc.registry.registry_files import Files
from extproc.registry.registry_loading import LoadedRegistry, load
from extproc.registry.snapshot_compiling import compile_snapshot
from extproc.routing.fastpath import LEAST, FastPath
from extproc.routing.snapshot import Snapshot
from extproc.routing.text_changes import TextChange
from extproc.vocabulary import Embedding
from tests.lab.conftest import WordCounts
from tests.routing.fast_path_words import fast_path_of, words_of

CODE, CHAT = "[fix my python code, write python code]", "[hello dear friend, good morning friend]"
ROWS = """\
{"text": "please fix python code", "route": "code"}
{"text": "write code", "route": "code"}

{"text": "hello friend", "route": "chat"}
{"text": "password: x", "route": null}
"""


def embed(texts: Sequence[str]) -> list[Embedding]:
    return [Embedding(row, 0, 0.0, 0.0) for row in WordCounts().encode(texts)]


def written(
    folder: Path, *, code: str = CODE, chat: str = CHAT, wanted: str = "min_accuracy: 0.8", rows: str = ROWS
) -> Path:
    (folder / "holdout.jsonl").write_text(rows)
    path = folder / "r.yaml"
    path.write_text(
        f"""\
models: {{a: {{base_url: 'http://h:1'}}}}
default: a
holdout: {{data: holdout.jsonl, {wanted}}}
thresholds: {{margin: 0.1, similarity: 0.3}}
rules: [{{name: secrets, when: {{keyword: password}}, deny: No.}}]
routes:
  code: {{candidates: a, examples: {code}}}
  chat: {{candidates: a, examples: {chat}}}
"""
    )
    return path


def compiled(path: Path) -> tuple[LoadedRegistry, Snapshot]:
    loaded = load(path)
    return loaded, compile_snapshot(loaded, WordCounts())


def passed(path: Path, serving: Snapshot | None = None) -> Passed:
    loaded, snapshot = compiled(path)
    assert loaded.holdout is not None
    return examine(loaded.holdout, snapshot, serving, embed)


def test_a_registry_without_a_holdout_has_none(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("models: {a: {base_url: 'http://h:1'}}\ndefault: a\n")
    assert load(path).holdout is None


def test_every_row_is_decided_as_it_would_be_in_traffic(tmp_path: Path) -> None:
    """A refusal counts as abstaining, as it does in `extproc eval`."""
    assert passed(written(tmp_path)) == Passed(right=4, rows=4)


def test_too_few_right_are_refused_by_the_lines_that_are_wrong_and_without_their_texts(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, code=CHAT, chat=CODE)
    with pytest.raises(HoldoutFailed) as caught:
        passed(path)
    assert str(caught.value) == (
        f"{path}:3: holdout: 1 of 4 rows right (0.250): below min_accuracy 0.8; "
        "wrong in holdout.jsonl, lines 1, 2, 4"
    )


def test_exactly_enough_is_enough(tmp_path: Path) -> None:
    assert passed(written(tmp_path, wanted="min_accuracy: 0.25", code=CHAT, chat=CODE)).right == 1


def test_what_serves_is_measured_on_the_same_rows_only_where_that_matters(tmp_path: Path) -> None:
    _, serving = compiled(written(tmp_path))
    worse = {"code": CHAT, "chat": CODE}
    assert passed(written(tmp_path, wanted="min_accuracy: 0", **worse), serving).serving is None
    wanted = "min_accuracy: 0, max_worse: 75"
    assert passed(written(tmp_path, wanted=wanted, **worse), serving) == Passed(1, 4, serving=4)
    with pytest.raises(
        HoldoutFailed, match=r"1 of 4 rows right \(0.250, 4 by .*75.0 points worse, max_worse is 74"
    ):
        passed(written(tmp_path, wanted="min_accuracy: 0, max_worse: 74", **worse), serving)


def test_the_check_leaves_the_fast_paths_of_both_versions_as_they_are(tmp_path: Path) -> None:
    """The rows are chosen for being hard: that words alone would miss them says nothing of traffic."""
    rows = '{"text": "hello friend", "route": "chat"}\n' * (2 * LEAST)
    path = written(tmp_path, wanted="min_accuracy: 0, max_worse: 0", rows=rows)
    loaded, snapshot = compiled(path)
    assert loaded.holdout is not None
    versions = [
        msgspec.structs.replace(snapshot, version=version, fast_path=always_code())
        for version in ("v1", "v2")
    ]
    assert examine(loaded.holdout, versions[1], versions[0], embed) == Passed(
        len(loaded.holdout.rows), len(loaded.holdout.rows), len(loaded.holdout.rows)
    )
    assert [version.fast_path_open for version in versions] == [True, True]


def always_code() -> FastPath:
    """Takes every text for code, by any of its words."""
    fast = fast_path_of(words_of(("code", "chat"), {"hello": [3, -3], "friend": [3, -3]}, least=0.5), 0.05)
    assert fast.read("hello friend") is not None
    return fast


def test_the_first_version_is_not_worse_than_any(tmp_path: Path) -> None:
    path = written(tmp_path, wanted="min_accuracy: 0, max_worse: 0", code=CHAT, chat=CODE)
    assert passed(path) == Passed(1, 4)


def test_rows_that_the_serving_version_has_right_come_first(tmp_path: Path) -> None:
    hard = '{"text": "hello python code", "route": "chat"}\n'
    _, serving = compiled(written(tmp_path, rows=hard + ROWS))
    path = written(tmp_path, rows=hard + ROWS, code=CHAT, chat="[x]", wanted="min_accuracy: 0, max_worse: 10")
    with pytest.raises(HoldoutFailed, match=r"lines 2, 3, 5, 1$"):
        passed(path, serving)


def test_decisions_that_a_typing_mistake_changes_are_counted_and_bounded(tmp_path: Path) -> None:
    """An encoder that counts words does not know a misspelt one."""
    rows = '{"text": "python", "route": "code"}\n{"text": "hello", "route": "chat"}\n'
    passing = passed(written(tmp_path, rows=rows, wanted="min_accuracy: 1, max_flips: 1"))
    assert passing.flips[TextChange.TYPO] == 2
    assert ", flips: typo 1.000, two_typos 1.000, case " in str(passing)
    path = written(tmp_path, rows=rows, wanted="min_accuracy: 1, max_flips: 0.9")
    with pytest.raises(HoldoutFailed) as caught:
        passed(path)
    assert str(caught.value).startswith(f"{path}:3: holdout: 2 of 2 rows right (1.000), flips: typo 1.000")
    assert str(caught.value).endswith(
        ": 2 of 2 decisions change when a text changes by `typo`, max_flips is 0.9; "
        "changed in holdout.jsonl, lines 1, 2"
    )


def test_flips_cost_nothing_where_they_have_no_bound(tmp_path: Path) -> None:
    assert passed(written(tmp_path)).flips == {}
    loaded, snapshot = compiled(written(tmp_path))
    assert loaded.holdout is not None
    embedded: list[str] = []

    def listed(texts: Sequence[str]) -> list[Embedding]:
        embedded.extend(texts)
        return embed(texts)

    examine(loaded.holdout, snapshot, None, listed)
    assert len(embedded) == len(loaded.holdout.rows)


def test_a_change_may_flip_exactly_as_many_rows_as_allowed(tmp_path: Path) -> None:
    rows = '{"text": "python", "route": "code"}\n{"text": "x y z", "route": null}\n'
    assert passed(written(tmp_path, rows=rows, wanted="min_accuracy: 1, max_flips: 0.5")).flips[
        TextChange.TYPO
    ] == 1  # fmt: skip


def test_the_version_is_of_the_rows_too_and_they_are_watched(tmp_path: Path) -> None:
    path, files = written(tmp_path), Files()
    version = load(path, files).version
    assert tmp_path / "holdout.jsonl" in files.prints
    assert load(written(tmp_path, rows=ROWS + ROWS)).version != version


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ('{"text": "x"}', "holdout.jsonl:1: missing key `route`"),
        ('\n{"text": "x", "route": "cod"}', "holdout.jsonl:2: there is no route `cod` in the registry "),
        ("nonsense", "holdout.jsonl:1: not JSON"),
        ("\n", "has no rows"),
    ],
)
def test_a_mistake_in_the_rows_is_a_mistake_in_the_registry(tmp_path: Path, rows: str, problem: str) -> None:
    with pytest.raises(RegistryError) as caught:
        load(written(tmp_path, rows=rows))
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml:3: holdout: ")
    assert problem in str(caught.value)


def test_a_file_of_rows_that_is_not_there_is_one_too(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "holdout.jsonl").unlink()
    with pytest.raises(RegistryError, match=r"r.yaml:3: cannot read .*holdout\.jsonl"):
        load(path)

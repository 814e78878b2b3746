"""`extproc train` from its options to a registry that serves what it wrote, with the real encoder."""

import json
import zlib
from pathlib import Path

import pytest

from extproc.cli import main
from extproc.embedding.encoder_files import EncoderFiles

KINDS = {
    "cooking": ["boil {}", "how long do I roast {}?", "a recipe with {}", "can I freeze {}?", "season {} for me"],
    "travel": ["a cheap flight to {}", "which hotel in {} is quiet?", "do I need a visa for {}?",
               "the train from here to {}", "plan three days in {}"],
}  # fmt: skip
THINGS = {
    "cooking": ["beans", "a chicken", "rice", "carrots", "dumplings"],
    "travel": ["Lisbon", "Peru", "Kyoto", "Oslo", "Ghana"],
}
REGISTRY = """\
models:
  small: {base_url: 'http://127.0.0.1:1'}
default: small
routes:
  cooking: {candidates: small, examples: ["How do I cook pasta?"]}
  travel: {candidates: small, examples: [I want to go on a journey]}
"""


@pytest.fixture
def registry(tmp_path: Path, encoder_files: EncoderFiles, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry, its data, and an encoder directory of its own for the cache to go to."""
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for file in encoder_files.directory.iterdir():
        if file.suffix != ".npz" and file.is_file():
            (encoder / file.name).symlink_to(file.absolute())
    monkeypatch.setenv("EXTPROC_ENCODER_DIR", str(encoder))
    rows = [
        {"text": kind.format(thing), "route": route}
        for route, kinds in KINDS.items()
        for kind in kinds
        for thing in THINGS[route]
    ]
    rows += [{"text": text, "route": None} for text in ("my tooth hurts", "solve x + 2 = 4", "who won?")]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "registry.yaml"
    path.write_text(REGISTRY)
    return path


def train(registry: Path, out: str, *more: str) -> int:
    data = registry.parent / "data.jsonl"
    return main(
        [
            "train",
            "--registry",
            str(registry),
            "--data",
            str(data),
            "--out",
            str(registry.parent / out),
            *more,
        ]
    )


def test_two_runs_write_the_same_bytes_and_the_second_embeds_nothing(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(registry, "one") == 0
    first = capsys.readouterr()
    assert "<- chosen" in first.out
    assert "embedding [" in first.err
    assert train(registry, "two") == 0
    assert "embedding [" not in capsys.readouterr().err
    for name in ("weights.npz", "manifest.json"):
        one, two = ((registry.parent / out / name).read_bytes() for out in ("one", "two"))
        assert one == two


def test_what_was_trained_serves(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(registry, "trained", "--scorer", "blend", "--target-wrong", "0.1") == 0
    capsys.readouterr()
    registry.write_text(REGISTRY + "artefact: trained\n")
    assert main(["explain", "--registry", str(registry), "--json", "can I freeze soup?"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["candidates"][0]["route"] == "cooking"


def test_eval_measures_an_artefact_before_the_registry_names_it(
    registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(registry, "trained", "--scorer", "centroid") == 0
    monkeypatch.chdir(registry.parent)
    measure = ["eval", "--registry", str(registry), "--data", "data.jsonl", "--json"]
    capsys.readouterr()
    assert main([*measure, "--artefact", "trained"]) == 0
    other = json.loads(capsys.readouterr().out)
    registry.write_text(REGISTRY + "artefact: trained\n")
    assert main(measure) == 0
    own = json.loads(capsys.readouterr().out)
    assert other["figures"] == own["figures"]
    assert other["reasons"] == own["reasons"]
    assert other["registry"] == f"{registry} with trained"


def test_a_registry_may_be_trained_again_whatever_its_artefact_is(registry: Path) -> None:
    registry.write_text(REGISTRY + "artefact: nowhere\n")
    assert train(registry, "trained", "--scorer", "centroid") == 0


def test_an_unknown_route_in_the_data_is_told_with_its_line(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (registry.parent / "data.jsonl").write_text('{"text": "hi", "route": "chatting"}\n')
    assert train(registry, "trained") == 1
    assert "data.jsonl:1: there is no route `chatting`" in capsys.readouterr().err
    assert not (registry.parent / "trained").exists()


@pytest.mark.parametrize("share", ["1.5", "-0.1", "much"])
def test_a_share_out_of_range_is_refused(
    registry: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(registry, "trained", "--target-wrong", share)
    assert "expected a share" in capsys.readouterr().err


@pytest.mark.parametrize("costs", ["wrong", "wrong=-1", "abstained=0", "stranger=nan", "lost=2", "wrong=1e9"])
def test_costs_that_are_none_are_refused(
    registry: Path, costs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(registry, "trained", "--costs", costs)
    assert "expected wrong=COST,abstained=COST,stranger=COST" in capsys.readouterr().err


def test_costs_and_a_target_exclude_each_other(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train(registry, "trained", "--costs", "wrong=3", "--target-wrong", "0.02")
    assert "not allowed with argument --costs" in capsys.readouterr().err


def thresholds(registry: Path, out: str) -> dict[str, float]:
    written: dict[str, float] = json.loads((registry.parent / out / "manifest.json").read_text())[
        "thresholds"
    ]
    return written


def test_the_more_a_stranger_costs_the_higher_is_the_floor(registry: Path) -> None:
    assert train(registry, "lax", "--scorer", "centroid", "--costs", "stranger=0.2") == 0
    assert train(registry, "strict", "--scorer", "centroid", "--costs", "stranger=20,wrong=20") == 0
    lax, strict = thresholds(registry, "lax"), thresholds(registry, "strict")
    assert strict["in_scope"] > lax["in_scope"]
    assert strict["margin"] > lax["margin"]


def test_where_training_gains_nothing_the_artefact_keeps_what_the_registry_decides(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the five examples a route that the registry has, nothing more can be learnt."""
    rows = [json.loads(line) for line in (registry.parent / "data.jsonl").read_text().splitlines()]
    rows = [row for route in KINDS for row in [row for row in rows if row["route"] == route][::5]]
    (registry.parent / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for route in KINDS:
        texts = [row["text"] for row in rows if row["route"] == route]
        (registry.parent / f"{route}.txt").write_text("\n".join(texts))
    with_files = REGISTRY.replace("examples: [", "examples_file: cooking.txt, examples: [", 1)
    with_files = with_files.replace("small, examples: [I", "small, examples_file: travel.txt, examples: [I")
    registry.write_text(with_files)
    explain = ["explain", "--registry", str(registry), "--json"]
    texts = ("can I freeze soup?", "my tooth hurts", "a boat to Malta")
    before = [decided(explain, text, capsys) for text in texts]
    assert train(registry, "trained") == 0
    printed = capsys.readouterr().out
    assert "beside default   12 held-out rows in scope" in printed
    assert "kept             the default scorer: too few rows to judge by" in printed
    manifest = json.loads((registry.parent / "trained" / "manifest.json").read_text())
    assert manifest["kind"] == "default"
    assert manifest["comparison"]["better"] is False
    assert not (registry.parent / "trained" / "weights.npz").exists()
    registry.write_text(with_files + "artefact: trained\n")
    assert main(["validate", str(registry)]) == 0
    capsys.readouterr()
    assert [decided(explain, text, capsys) for text in texts] == before
    registry.write_text(with_files + "artefact: trained\nfast_path: {}\n")
    assert main(["validate", str(registry)]) == 1
    assert "fast_path: training kept the default scorer in " in capsys.readouterr().err
    assert train(registry, "trained", "--scorer", "linear") == 0
    printed = capsys.readouterr().out
    assert "warning          the head is no better than the default scorer" in printed
    assert (registry.parent / "trained" / "weights.npz").exists()


def decided(explain: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> object:
    assert main([*explain, text]) == 0
    found = json.loads(capsys.readouterr().out)
    return {name: found[name] for name in ("route", "reason", "probability", "in_scope", "candidates")}


PRICED = """\
models:
  small: {base_url: 'http://127.0.0.1:1', price: {input: 1, output: 1}}
  large: {base_url: 'http://127.0.0.1:2', price: {input: 10, output: 10}}
default: large
ARTEFACT
routes:
  cooking: {candidates: [small, large], examples: ["How do I cook pasta?"]BAR}
  travel: {candidates: small, examples: [I want to go on a journey]}
"""


def test_a_registry_that_asks_for_a_fast_path_is_taught_one_and_refused_without(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(registry, "trained", "--scorer", "linear") == 0
    assert "fast path" not in capsys.readouterr().out
    registry.write_text(REGISTRY + "artefact: trained\nfast_path: {}\n")
    assert main(["validate", str(registry)]) == 1
    assert "fast_path: the artefact was trained without a fast path" in capsys.readouterr().err
    assert train(registry, "trained", "--scorer", "linear") == 0
    assert "fast path        " in capsys.readouterr().out
    assert main(["validate", str(registry)]) == 0
    about = json.loads((registry.parent / "trained" / "manifest.json").read_text())["fast_path"]
    assert about["least"] > 0
    assert about["rows"] >= 50


def test_explain_shows_what_the_fast_path_does_with_a_request_of_that_id(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floors = "thresholds: {margin: 0.5, similarity: 0.0}\n"
    registry.write_text(REGISTRY + floors + "artefact: trained\nfast_path: {}\n")
    # So few rows are doubted too often for the words to agree, unless strangers cost next to nothing.
    assert train(registry, "trained", "--scorer", "linear", "--costs", "stranger=0.01") == 0
    capsys.readouterr()

    def printed(*header: str) -> str:
        assert main(["explain", "--registry", str(registry), *header, "a recipe with beans"]) == 0
        return capsys.readouterr().out

    sampled = next(name for name in map(str, range(1000)) if zlib.crc32(name.encode()) < 0.05 * 2**32)
    spared = next(name for name in map(str, range(1000)) if zlib.crc32(name.encode()) >= 0.05 * 2**32)
    by_words = printed("--header", f"x-request-id={spared}")
    assert "decided by  lexical: matched" in by_words
    assert "\nnearest" not in by_words  # there is no embedding to be near to anything
    for compared in (
        printed("--header", f"X-Request-Id={sampled}"),
        printed(),
    ):  # one without an id is of the sample
        assert "decided by  embedding: " in compared
        assert "fast path   the same route by its words alone" in compared


def test_outcomes_train_a_choice_that_serves_and_is_measured(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.write_text(PRICED.replace("ARTEFACT\n", "").replace("BAR", ""))
    rows = [
        {
            "text": kind.format(thing),
            "outcomes": {"small": float(number < 3), "large": 1.0},
            "tokens": {"small": 40, "large": 60},
        }
        for kinds in KINDS.values()
        for number, kind in enumerate(kinds)
        for things in THINGS.values()
        for thing in things
    ]
    outcomes = registry.parent / "outcomes.jsonl"
    outcomes.write_text("\n".join(map(json.dumps, rows)))
    assert train(registry, "one", "--outcomes", str(outcomes)) == 0
    printed = capsys.readouterr().out
    assert "predicted quality of 2 models" in printed
    assert "small or large" in printed
    assert "each kind of prompt (clusters) predicted by a fit without it: APGR " in printed
    registry.write_text(PRICED.replace("ARTEFACT", "artefact: one").replace("BAR", ", quality_bar: 0.9"))
    common = ["--registry", str(registry)]
    assert main(["explain", *common, "--json", "boil beans"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert [offer["model"] for offer in decision["offers"]] == ["small", "large"]
    assert all(0 < offer["quality"] < 1 and offer["cost"] > 0 for offer in decision["offers"])
    assert decision["training_similarity"] > 0.5
    assert main(["explain", *common, "boil beans"]) == 0
    assert " similarity to the nearest training prompt: the head counts " in capsys.readouterr().out
    assert main(["eval", *common, "--outcomes", str(outcomes), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["routes"] is None
    assert report["models"]["seen"] is True
    assert report["models"]["choosing"]["strong"] == "large"
    assert main(["eval", *common]) != 0
    assert "expected --data, --outcomes, --store, or several" in capsys.readouterr().err
    assert train(registry, "one") == 0
    assert not (registry.parent / "one" / "quality.json").exists()


def outcomes_of(folder: Path) -> str:
    """A file of outcomes: the small model answers three of five kinds of question."""
    rows = [
        {"text": kind.format(thing), "outcomes": {"small": float(number < 3), "large": 1.0}}
        for kinds in KINDS.values()
        for number, kind in enumerate(kinds)
        for things in THINGS.values()
        for thing in things
    ]
    path = folder / "outcomes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_outcomes_alone_train_the_choice_of_a_registry_whose_examples_decide_routes(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, common = outcomes_of(registry.parent), ["--registry", str(registry)]
    registry.write_text(PRICED.replace("ARTEFACT", "artefact: learnt").replace("BAR", ", quality_bar: 0.9"))
    out = registry.parent / "learnt"
    assert train(registry, "learnt") == 0
    assert main(["train", *common, "--outcomes", path, "--out", str(out)]) == 0
    assert "the registry takes it as `artefact: learnt`" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == ["quality.json", "quality.npz"]
    assert main(["validate", str(registry)]) == 0
    capsys.readouterr()
    assert main(["explain", *common, "--json", "How do I cook pasta?"]) == 0
    decision = json.loads(capsys.readouterr().out)
    assert decision["candidates"][0]["route"] == "cooking"
    assert [offer["model"] for offer in decision["offers"]] == ["small", "large"]
    assert all(0 < offer["quality"] < 1 for offer in decision["offers"])
    assert main(["eval", *common, "--outcomes", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["seen"] is True
    registry.write_text(registry.read_text() + "fast_path: {}\n")
    assert main(["validate", str(registry)]) == 1
    assert "fast_path: " in capsys.readouterr().err


def test_outcomes_train_a_registry_without_routes(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, common = outcomes_of(registry.parent), ["--registry", str(registry)]
    registry.write_text(PRICED.partition("routes:")[0].replace("ARTEFACT", "artefact: learnt"))
    assert train(registry, "learnt") == 1
    assert "has no routes to learn (expected some, or only --outcomes)" in capsys.readouterr().err
    assert main(["train", *common, "--outcomes", path, "--out", str(registry.parent / "learnt")]) == 0
    assert "predicted quality of 2 models" in capsys.readouterr().out
    assert main(["validate", str(registry)]) == 0
    assert main(["eval", *common, "--outcomes", path, "--json"]) == 0


def test_routes_and_outcomes_come_from_the_record_store_where_no_file_gives_them(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.write_text(PRICED.replace("ARTEFACT\n", "").replace("BAR", ""))
    labelled = [json.loads(line) for line in (registry.parent / "data.jsonl").read_text().splitlines()]
    rows: list[dict[str, object]] = []
    for number, row in enumerate(labelled):
        request = f"r{number}"
        rows.append(
            {
                "kind": "exchange",
                "time": "2026-11-25T12:00:00Z",
                "request_id": request,
                "api": "openai.chat",
                "model": "large",
                "bypassed": False,
                "refused": False,
                "output_tokens": 60,
                "input_messages": json.dumps(
                    [{"role": "user", "parts": [{"type": "text", "content": row["text"]}]}]
                ),
            }
        )
        for name, printed in {
            "route": {"label": row["route"] or "none", "score": 1.0},
            "judge": {"score": 1.0},
            "feedback": {"score": float(number % 5 < 3), "subject": "shadow", "model": "small"},
        }.items():
            about = {
                "kind": "evaluation",
                "time": "2026-11-25T13:00:00Z",
                "request_id": request,
                "name": name,
            }
            rows.append({**about, "evaluation_id": f"{name}-{number}", **printed})
    (registry.parent / "records-1.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = str(registry.parent / "store")
    assert main(["records", "import", str(registry.parent / "records-1.jsonl"), "--store", store]) == 0
    common = ["--registry", str(registry), "--store", store]
    out = str(registry.parent / "learnt")
    assert main(["train", *common, "--scorer", "linear", "--out", out]) == 0
    assert "predicted quality of 2 models" in capsys.readouterr().out
    assert main(["eval", *common, "--artefact", out, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["routes"]["data"], report["routes"]["rows"]) == (store, len(labelled))
    assert report["routes"]["outside"] == 3
    assert report["models"]["seen"] is True
    assert main(["eval", *common, "--json"]) == 0  # without predicted quality: routes alone
    assert json.loads(capsys.readouterr().out)["inside"] == len(labelled) - 3
    assert main(["train", "--registry", str(registry), "--out", out]) == 1
    assert "expected --data, --outcomes or --store" in capsys.readouterr().err


def test_a_candidate_that_is_no_better_than_a_cheaper_one_is_left_out_and_explain_says_so(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.write_text(PRICED.replace("ARTEFACT\n", "").replace("BAR", ""))
    rows = [
        {"text": kind.format(thing), "outcomes": {"small": float(number > 0), "large": float(number > 0)}}
        for kinds in KINDS.values()
        for number, kind in enumerate(kinds)
        for things in THINGS.values()
        for thing in things
    ]
    outcomes = registry.parent / "outcomes.jsonl"
    outcomes.write_text("\n".join(map(json.dumps, rows)))
    assert train(registry, "one", "--outcomes", str(outcomes)) == 0
    printed = capsys.readouterr().out
    assert "large is dominated by small, which costs no more: lead in quality 0.000 [0.000, 0.000]" in printed
    assert "small answers every request" in printed
    about = json.loads((registry.parent / "one" / "quality.json").read_text())
    assert about["matched_by"]["large"] == ["small"]
    registry.write_text(PRICED.replace("ARTEFACT", "artefact: one").replace("BAR", ", quality_bar: 0.99"))
    assert main(["explain", "--registry", str(registry), "boil beans"]) == 0
    printed = capsys.readouterr().out
    assert "large  dominated by small" in printed
    assert "small  <- chosen" in printed

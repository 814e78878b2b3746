"""How many queries in a language that the encoder does not read abstain, and how many in English?

    python benchmarks/languages.py [--english CLINC150.jsonl.gz ...]

The routes and their English examples are those of `material/languages_examples.json`. The author of the word
lists saw the queries of `material/languages.jsonl`, and not those of `material/languages_fresh.jsonl`, whose
first 40 rows showed that texts without function words were missed. Every query is decided twice: with
`encoder.languages` as `[any]`, and as `[en]`. `--english` counts the rows of files with `text`
that are taken for another language.
"""

import argparse
import asyncio
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from extproc.embedding.encoder_files import locate
from extproc.embedding.encoder_models import MINILM, MODELS
from extproc.embedding.encoder_session import OnnxEncoder, embeddings_of, open_encoder
from extproc.registry import schema
from extproc.routing.embedding_scorer import fit_meaning
from extproc.routing.languages import ANY, ENGLISH, unread
from extproc.routing.model_choice import Target
from extproc.routing.rehearsal import rehearse
from extproc.routing.scorers import fit_logistic
from extproc.routing.snapshot import RoutePolicy, Snapshot
from extproc.vocabulary import Api, ClusterName, Decision, ModelName, RouteName, UpstreamName, Version

MATERIAL = Path(__file__).parent / "material"
COLUMNS = (
    "language",
    "queries",
    "taken for another language",
    "abstain, any",
    "right of kept, any",
    "best route is right, any",
    "abstain, en",
    "right of kept, en",
    "best route is right, en",
)


def main() -> None:
    """Print the table, and a line for each file of English rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--english", type=Path, nargs="*", default=[])
    parser.add_argument("--encoder", choices=tuple(MODELS), default=MINILM.name)
    options = parser.parse_args()
    settings = schema.EncoderSettings(model=options.encoder, device="cpu")
    encoder = open_encoder(locate(None, options.encoder), settings)
    believing = world(json.loads((MATERIAL / "languages_examples.json").read_text()), encoder)
    reading = msgspec.structs.replace(believing, languages=frozenset({ENGLISH}))
    for name in ("languages.jsonl", "languages_fresh.jsonl"):
        rows = [json.loads(line) for line in (MATERIAL / name).read_text().splitlines()]
        print(f"{name}\n\n| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for language in (key for key in rows[0] if key != "route"):
            asked = [(row[language], row["route"]) for row in rows if language in row]
            texts, routes = [text for text, _ in asked], [route for _, route in asked]
            taken = sum(bool(unread(text, frozenset({ENGLISH}))) for text in texts)
            cells = [
                cell
                for snapshot in (believing, reading)
                for cell in outcome(decided(snapshot, texts, encoder), routes)
            ]
            print(f"| {language} | {len(texts)} | {taken} | " + " | ".join(cells) + " |", flush=True)
    for path in options.english:
        print(flagged(path))


def world(examples: Mapping[str, Sequence[str]], encoder: OnnxEncoder) -> Snapshot:
    """The routes with the default scorer and floors."""
    model = Target(ModelName("m"), UpstreamName("m"), ClusterName("m"), frozenset({Api.OPENAI_CHAT}))
    policy = RoutePolicy((model,), schema.DEFAULT_MARGIN, schema.DEFAULT_SIMILARITY)
    return Snapshot(
        version=Version("v"),
        targets={model.model: model},
        routes={RouteName(name): policy for name in examples},
        defaults={Api.OPENAI_CHAT: model.model},
        deny_rules=(),
        route_rules=(),
        meaning=fit_meaning(
            {RouteName(n): tuple(texts) for n, texts in examples.items()}, encoder, fit_logistic
        ),
        budget_s=60.0,
        languages=frozenset({ANY}),
    )


def decided(snapshot: Snapshot, texts: Sequence[str], encoder: OnnxEncoder) -> list[Decision | None]:
    """The decision of the serving pipeline for each text."""
    embeddings = dict(zip(texts, embeddings_of(encoder.encode(texts)), strict=True))
    return asyncio.run(rehearse(snapshot, texts, embeddings))


def outcome(decisions: Sequence[Decision | None], routes: Sequence[str]) -> tuple[str, str, str]:
    """The share that abstains, the right ones of the others, and how often the best route is right."""
    pairs = list(zip(decisions, routes, strict=True))
    kept = [(found.route, route) for found, route in pairs if found is not None and found.route]
    right = sum(found == route for found, route in kept)
    ranked = [(found.candidates, route) for found, route in pairs if found is not None]
    best = sum(bool(candidates) and candidates[0].route == route for candidates, route in ranked)
    return f"{1 - len(kept) / len(routes):.2f}", f"{right} of {len(kept)}", str(best)


def flagged(path: Path) -> str:
    """How many English rows are taken for another language, and the time of one."""
    with gzip.open(path, "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    began = time.perf_counter()
    found = sum(bool(unread(text, frozenset({ENGLISH}))) for text in texts)
    each = 1e6 * (time.perf_counter() - began) / len(texts)
    return f"{path.name}: {found} of {len(texts)} ({found / len(texts):.3%}), {each:.0f} us a row"


if __name__ == "__main__":
    main()

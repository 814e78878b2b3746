"""`extproc eval --outcomes` and `extproc train --outcomes`: fit and measure predicted quality."""

from collections.abc import Sequence

import msgspec
import numpy as np

from extproc.embedding.encoder_files import DIMENSIONS
from extproc.errors import OperatorError
from extproc.lab.datasets import OutcomeRow, Reader
from extproc.lab.measure.choice_worth import (
    Choosing,
    OutcomeReport,
    Table,
    advised,
    answered_by_all,
    measure,
)
from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.lab.measure.dominance import CandidatePool, by_name, by_place, dominated_in, matched_of
from extproc.lab.measure.kind_worth import LeftOutFigures, measure_left_out
from extproc.lab.measure.replay import CandidateRegistry
from extproc.lab.train.quality_fitting import (
    Answers,
    FittedQuality,
    Progress,
    answers_of,
    data_hash,
    fit_quality,
)
from extproc.registry.quality_artefact import FORMAT, QualityManifest
from extproc.registry.schema import Registry
from extproc.registry.section import many
from extproc.routing.model_choice import CHARS_PER_TOKEN, USUAL_TOKENS
from extproc.routing.predicted_quality import Quality
from extproc.vocabulary import Encoder


class LearntQuality(msgspec.Struct, frozen=True):
    """The model of quality that `extproc train` fitted on outcomes, and its figures."""

    manifest: QualityManifest
    fitted: FittedQuality
    priced: bool
    choosing: Choosing  # on held-out rows
    pools: tuple[CandidatePool, ...]
    left_out: LeftOutFigures


def evaluate_outcomes(candidate: CandidateRegistry, read: Reader[OutcomeRow]) -> OutcomeReport:
    """Measure the registry's predicted quality on rows that its training did not see.

    Raises ``OperatorError`` if the registry predicts no quality or no text has answers of all models.
    """
    trained = candidate.loaded.quality
    if trained is None:
        raise OperatorError(
            f"{candidate.loaded.path} predicts no quality (expected `artefact` to name a directory from "
            "`extproc train --outcomes`)"
        )
    registry, quality = candidate.loaded.registry, trained.quality
    data = read(quality.models)
    rows = data.rows
    models = [model for model in quality.models if any(model in row.outcomes for row in rows)]
    answers = read_answers(rows, models, candidate.encoder)
    place = [quality.models.index(model) for model in models]
    predicted = quality.predict(answers.inputs, answers.looks)[:, place].astype(np.float64)
    matched = by_place(models, quality.matched_by)
    table, priced = table_of(answers, predicted, quality, registry, matched)
    return OutcomeReport(
        registry=candidate.name,
        version=candidate.loaded.version,
        encoder=candidate.encoder_name,
        data=data.name,
        data_version=data.version,
        rows=len(rows),
        seen=data_hash(answers) == trained.manifest.data_sha256,
        priced=priced,
        choosing=measure(table),
    )


def learn_quality(
    registry: Registry, read: Reader[OutcomeRow], deep: Encoder, encoder: str, seed: int, progress: Progress
) -> LearntQuality:
    """Fit predicted quality on outcomes; ``deep`` gives the layers of ``encoder``.

    Raises ``OperatorError``.
    """
    rows = read(tuple(registry.models)).rows
    models = [model for model in registry.models if any(model in row.outcomes for row in rows)]
    answers = read_answers(rows, models, deep)
    fitted = fit_quality(answers, seed, progress)
    table, priced = table_of(answers, fitted.held, fitted.quality, registry)
    choosing = measure(table)
    whole = answered_by_all(answers.scores)
    left_out = measure_left_out(
        msgspec.structs.replace(table, predicted=fitted.apart[whole]),
        fitted.kinds[whole], fitted.sets, advised(choosing),
    )  # fmt: skip
    known = (~np.isnan(answers.scores)).sum(axis=0).tolist()
    return LearntQuality(
        manifest=QualityManifest(
            format=FORMAT,
            encoder=encoder,
            models=answers.models,
            deep=fitted.quality.reading.deep,
            data_sha256=data_hash(answers),
            seed=seed,
            texts=len(answers.texts),
            labels=dict(zip(answers.models, known, strict=True)),
            penalty=fitted.penalty,
            trust={
                "far": fitted.quality.familiarity.far,
                "near": fitted.quality.familiarity.near,
                "most": fitted.quality.familiarity.most,
            },
            metrics={**_kept(choosing), "left_out": msgspec.to_builtins(left_out)},
            matched_by=dict(by_name(models, table.matched)),
        ),
        fitted=fitted,
        priced=priced,
        choosing=choosing,
        pools=_pools(registry, table),
        left_out=left_out,
    )


def _pools(registry: Registry, table: Table) -> tuple[CandidatePool, ...]:
    """The pools of routes with several candidates that have outcomes."""
    routes: dict[tuple[str, ...], list[str]] = {}
    for name, route in registry.routes.items():
        pool = tuple(model for model in many(route.candidates) if model in table.models)
        if len(pool) > 1:
            routes.setdefault(pool, []).append(name)
    return tuple(
        CandidatePool(
            tuple(names),
            pool,
            tuple(dominated_in(pool, table.models, table.scores, table.costs, table.matched)),
        )
        for pool, names in routes.items()
    )


def read_answers(rows: Sequence[OutcomeRow], models: Sequence[str], encoder: Encoder) -> Answers:
    """The rows with the features of their texts; of rows with equal texts, the first."""
    unique = list({row.text: row for row in reversed(rows)}.values())[::-1]
    return answers_of(unique, models, encoder.encode([row.text for row in unique]), DIMENSIONS)


def table_of(
    answers: Answers,
    predicted: Floats,
    quality: Quality,
    registry: Registry,
    matched: Truths | None = None,
) -> tuple[Table, bool]:
    """The texts that every model answered, and whether costs are US dollars.

    Without ``matched`` it is found on these texts.
    """
    if len(answers.models) < 2:
        raise OperatorError("outcomes of a single model leave nothing to choose (expected two or more)")
    whole = answered_by_all(answers.scores)
    if not len(whole):
        raise OperatorError(
            f"no text has outcomes of all of {', '.join(answers.models)} (expected some to compare them on)"
        )
    place = [quality.models.index(model) for model in answers.models]
    lengths = quality.lengths(answers.inputs, answers.looks)[:, place].astype(np.float64)
    expected = np.where(np.isnan(lengths), USUAL_TOKENS, lengths)
    tokens = np.where(np.isnan(answers.tokens), expected, answers.tokens)
    some, priced = answers.take(whole), _prices(registry, answers.models)
    table = Table(
        texts=some.texts,
        models=some.models,
        predicted=predicted[whole],
        scores=some.scores,
        costs=_costs(some, tokens[whole], priced),
        expected=_costs(some, expected[whole], priced),
        matched=matched_of(predicted[whole], some.scores) if matched is None else matched,
    )
    return table, priced is not None


def _prices(registry: Registry, models: Sequence[str]) -> Floats | None:
    """US dollars a token, (models, 2); None unless every model has a price."""
    prices = [registry.models[model].price for model in models]
    known = [(price.input / 1e6, price.output / 1e6) for price in prices if price is not None]
    return np.array(known) if len(known) == len(prices) else None


def _costs(answers: Answers, tokens: Floats, prices: Floats | None) -> Floats:
    if prices is None:
        strong = answers.scores.mean(axis=0).argmax()
        calls: Floats = np.zeros(tokens.shape)
        calls[:, strong] = 1.0
        return calls
    asked = np.array([len(text) // CHARS_PER_TOKEN for text in answers.texts], np.float64)
    return asked[:, None] * prices[:, 0] + tokens * prices[:, 1]


def _kept(choosing: Choosing) -> dict[str, object]:
    """The figures of held-out rows that the manifest keeps."""
    ours = choosing.routers[0]
    figures = {"apgr": ours.apgr, "cpt50": ours.cpt50, "cpt80": ours.cpt80, "saving_at_95": ours.saving}
    return {
        "measured_on": "cross-fitted",
        "rows": choosing.rows,
        "weak": choosing.weak,
        "strong": choosing.strong,
        **{name: [round(each, 4) for each in (f.value, f.low, f.high)] for name, f in figures.items()},
        "calibration_error": {model.name: round(model.calibration.value, 4) for model in choosing.models},
    }

"""Labelled answers: each line has one prompt, the answers of models and their scores.

    {"prompt": ..., "answers": {MODEL: TEXT}, "scores": {MODEL: 0..1}, "tokens": {MODEL: COUNT}}

``tokens`` is optional; the default is a quarter of the answer's characters.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from extproc.apis.model_answer import ANSWER_LIMIT, Finish, ModelAnswer
from extproc.errors import DataError, OperatorError
from extproc.gate.answer_scoring import agreement, features
from extproc.gate.judged_request import QUESTION_LIMIT, JudgedRequest
from extproc.lab.datasets import Share, lines_of
from extproc.lab.measure.classification_metrics import Floats, Truths
from extproc.lab.train.splits import groups_of, places
from extproc.registry.labelled_rows import Text, parse
from extproc.routing.lexical_features import lexical
from extproc.vocabulary import Api

CHARS_PER_TOKEN = 4.0  # of English, as OpenAI's guide to tokens says


class LabelledAnswers(msgspec.Struct, frozen=True):
    """One prompt and its answers."""

    prompt: Text
    answers: dict[str, str]
    scores: dict[str, Share]
    tokens: dict[str, Annotated[int, Meta(ge=0)]] = {}


class PairPrices(msgspec.Struct, frozen=True):
    """US dollars per token."""

    input: float
    output: float


class Pair(msgspec.Struct, frozen=True):
    """Prompts that both models answered. Arrays have one entry a prompt."""

    small: str
    large: str
    second: str  # empty: none
    prompts: tuple[str, ...]
    features: Floats  # (n, features) of the small model's answers
    agreement: Floats  # with the second model's answers; empty without a second model
    length: Floats  # characters of the small model's answers
    small_score: Floats
    large_score: Floats
    small_cost: Floats  # dollars
    large_cost: Floats
    second_cost: Floats  # zeros without a second model

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Pair":
        """Some of the prompts."""
        numbers = np.arange(len(self.prompts))[rows]
        arrays = {
            name: value[numbers] if len(value) else value
            for name in self.__struct_fields__
            if isinstance(value := getattr(self, name), np.ndarray)
        }
        return msgspec.structs.replace(self, prompts=tuple(self.prompts[n] for n in numbers), **arrays)

    @property
    def paired_features(self) -> Floats:
        """``features`` and the agreement."""
        return np.column_stack([self.features, self.agreement])

    @property
    def good(self) -> Truths:
        """Whether the small model's answer is good: its score is 0.5 or more."""
        good: Truths = self.small_score >= 0.5
        return good

    @property
    def first_cost(self) -> Floats:
        """The cost before it is known whether the large model is asked, too."""
        spent: Floats = self.small_cost + self.second_cost
        return spent

    def places(self, seed: int) -> Floats:
        """A place in [0, 1) for each prompt by its hash, equal for near-duplicates: splits use it."""
        return places(self.prompts, groups_of(lexical(self.prompts)), seed)


def read_answers(path: Path) -> list[LabelledAnswers]:
    """The rows of a file. Raises ``DataError``."""
    rows = []
    for line, text in lines_of(path):
        row = parse(path, line, text, LabelledAnswers)
        if unanswered := row.scores.keys() - row.answers.keys():
            raise DataError(str(path), line, f"scores: no answer of {min(unanswered)} (expected its text)")
        rows.append(row)
    return rows


def sha256_of(rows: Sequence[LabelledAnswers]) -> str:
    """The SHA-256 of the rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(msgspec.json.encode(row, order="deterministic") + b"\n")
    return digest.hexdigest()


def pair_of(
    rows: Sequence[LabelledAnswers], small: str, large: str, second: str, prices: Mapping[str, PairPrices]
) -> Pair:
    """The rows in which all of the models answered and the small and the large one have scores."""
    known = [
        row
        for row in rows
        if small in row.scores and large in row.scores and (not second or second in row.answers)
    ]
    asked = [JudgedRequest(api=Api.OPENAI_CHAT, text=row.prompt[:QUESTION_LIMIT]) for row in known]
    return Pair(
        small=small,
        large=large,
        second=second,
        prompts=tuple(row.prompt for row in known),
        features=np.array(
            [features(ask, answer_of(row.answers[small])) for ask, row in zip(asked, known, strict=True)]
        ),
        agreement=np.array(
            [agreement(row.answers[small], row.answers[second]) for row in known] if second else []
        ),
        length=np.array([float(len(row.answers[small])) for row in known]),
        small_score=np.array([row.scores[small] for row in known]),
        large_score=np.array([row.scores[large] for row in known]),
        small_cost=_costs(known, small, prices),
        large_cost=_costs(known, large, prices),
        second_cost=_costs(known, second, prices) if second else np.zeros(len(known)),
    )


def check_usable(data: Path, rows: Sequence[LabelledAnswers], pair: Pair) -> None:
    """Raise ``OperatorError`` if no row is in ``pair``, and name what the rows have and lack."""
    if len(pair.prompts):
        return
    scored = ", ".join(
        f"{sum(model in row.scores for row in rows)} have a score of {model}"
        for model in (pair.small, pair.large)
    )
    answered = f"{sum(pair.second in row.answers for row in rows)} have an answer of {pair.second}"
    raise OperatorError(
        f"{data}: of {len(rows)} rows, {scored}{', ' + answered if pair.second else ''}; none has all of "
        "these (expected some that have)"
    )


def answer_of(text: str) -> ModelAnswer:
    """A complete answer with this text."""
    return ModelAnswer(text=text[:ANSWER_LIMIT], finish=Finish.STOP)


def _costs(rows: Sequence[LabelledAnswers], model: str, prices: Mapping[str, PairPrices]) -> Floats:
    price = prices[model]
    return np.array(
        [
            price.input * len(row.prompt) / CHARS_PER_TOKEN
            + price.output * row.tokens.get(model, len(row.answers[model]) / CHARS_PER_TOKEN)
            for row in rows
        ]
    )

"""Who is encoded under overload, in simulated time: the encoder's capacity is used for who still waits."""

import math
import random
from dataclasses import dataclass, field

import pytest

from extproc.embedding.batching import MARGIN
from extproc.embedding.encode_backlog import Backlog
from extproc.errors import Overloaded

BATCH_TOKENS = 1024
WITHIN_S = 0.2


@dataclass(frozen=True, eq=False)
class Text:
    tokens: int
    due: float
    arrived: float = 0.0


def text(tokens: int = 10, due: float = WITHIN_S) -> Text:
    return Text(tokens, due)


@pytest.fixture
def backlog() -> Backlog[Text]:
    """Of an encoder that takes a millisecond a token."""
    backlog: Backlog[Text] = Backlog(limit=256)
    backlog.add(text(), 0.0)
    backlog.take(0.0, BATCH_TOKENS)
    backlog.finish(0.010)
    return backlog


def fill(backlog: Backlog[Text], now: float, *texts: Text) -> None:
    for each in texts:
        backlog.add(each, now)


def test_before_anything_is_measured_all_are_taken() -> None:
    backlog: Backlog[Text] = Backlog(limit=3)
    fill(backlog, 0.0, *(text(1000, due=0.001) for _ in range(3)))
    with pytest.raises(Overloaded, match="3 texts already wait"):
        backlog.add(text(), 0.0)


def test_a_text_that_would_be_late_is_refused_at_once(backlog: Backlog[Text]) -> None:
    fill(backlog, 1.0, *(text(40, due=1.2) for _ in range(3)))
    with pytest.raises(Overloaded, match=r"would take 0\.172 s"):
        backlog.add(text(52, due=1.2), 1.0)
    backlog.add(text(48, due=1.2), 1.0)


def test_what_is_left_of_the_batch_in_the_encoder_counts(backlog: Backlog[Text]) -> None:
    backlog.add(text(100, due=1.2), 1.0)
    backlog.take(1.0, BATCH_TOKENS)
    with pytest.raises(Overloaded):
        backlog.add(text(110, due=1.2), 1.0)
    backlog.add(text(110, due=1.25), 1.05)


def test_an_idle_encoder_takes_even_what_it_takes_too_long_for(backlog: Backlog[Text]) -> None:
    long = text(5000, due=1.2)
    backlog.add(long, 1.0)
    assert backlog.take(1.0, BATCH_TOKENS) == ([long], [])


def test_no_batch_is_so_long_that_one_of_it_is_late(backlog: Backlog[Text]) -> None:
    soon, later = text(10, due=1.015), text(10, due=2.0)
    fill(backlog, 1.0, soon, later)
    assert backlog.take(1.0, BATCH_TOKENS) == ([soon], [])
    backlog.finish(1.010)
    assert backlog.take(1.010, BATCH_TOKENS) == ([later], [])


def test_after_a_stall_the_late_are_dropped_and_the_newest_go_first(backlog: Backlog[Text]) -> None:
    old, middle, new = text(80, due=1.1), text(80, due=1.26), text(80, due=1.4)
    fill(backlog, 1.0, old, middle, new)
    assert backlog.take(1.15, BATCH_TOKENS) == ([new], [old, middle])
    assert len(backlog) == 0


def test_a_text_without_a_due_time_is_never_late(backlog: Backlog[Text]) -> None:
    patient = text(10_000, due=math.inf)
    backlog.add(patient, 1.0)
    assert backlog.take(50.0, BATCH_TOKENS) == ([patient], [])


@dataclass
class Outcome:
    """What became of the texts of a simulation."""

    decided: int = 0
    encoded_in_vain: int = 0
    refused: int = 0  # at once
    dropped: int = 0  # after they had waited
    waits: list[float] = field(default_factory=list)  # of those decided


class Encoder:
    """Takes 2 ms a batch and 0.4 ms a padded token, a tenth more or less."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def seconds(self, batch: list[Text]) -> float:
        padded = len(batch) * max(each.tokens for each in batch)
        return (0.002 + 0.0004 * padded) * self._chance.uniform(0.9, 1.1)


def arrivals(chance: random.Random, per_second: float, seconds: float) -> list[Text]:
    """Texts of 20 to 40 tokens that come independently of each other."""
    texts, now = [], 0.0
    while (now := now + chance.expovariate(per_second)) < seconds:
        texts.append(Text(chance.randint(20, 40), now + WITHIN_S * MARGIN, now))
    return texts


def simulated(per_second: float, seconds: float, stall: tuple[float, float] = (0.0, 0.0)) -> Outcome:
    """Texts at a rate, until all have had their answer; ``stall`` is when the encoder hangs, and how long."""
    chance = random.Random(7)
    encoder, outcome, backlog = Encoder(chance), Outcome(), Backlog[Text](limit=256)
    coming = arrivals(chance, per_second, seconds)
    free, batch = 0.0, list[Text]()
    while coming or batch or len(backlog):
        now = min(free if batch else math.inf, coming[0].arrived if coming else math.inf)
        if batch and now == free:
            backlog.finish(now)
            in_time = [each for each in batch if now <= each.arrived + WITHIN_S]
            outcome.decided += len(in_time)
            outcome.encoded_in_vain += len(batch) - len(in_time)
            outcome.waits += [now - each.arrived for each in in_time]
            batch = []
        else:
            try:
                backlog.add(coming.pop(0), now)
            except Overloaded:
                outcome.refused += 1
        if not batch:
            batch, late = backlog.take(now, BATCH_TOKENS)
            outcome.dropped += len(late)
            if batch:
                began, hangs = stall
                free = now + encoder.seconds(batch) + (hangs if began <= now < began + hangs else 0.0)
    return outcome


def capacity() -> float:
    """Texts a second that the encoder can take, full batches all the time."""
    chance = random.Random(1)
    texts = [text(chance.randint(20, 40)) for _ in range(BATCH_TOKENS // 40 * 40)]
    size = BATCH_TOKENS // 40
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    encoder = Encoder(chance)
    return len(texts) / sum(encoder.seconds(batch) for batch in batches)


@pytest.mark.parametrize("load", [1.2, 2.0, 10.0])
def test_under_overload_the_capacity_is_used_and_the_others_get_their_default_at_once(load: float) -> None:
    seconds = 60.0
    found = simulated(load * capacity(), seconds)
    assert found.decided >= 0.9 * capacity() * seconds
    assert found.encoded_in_vain <= 0.01 * found.decided
    assert found.refused >= 20 * found.dropped


def test_below_capacity_nothing_is_refused_that_could_wait() -> None:
    found = simulated(0.7 * capacity(), 60.0)
    assert found.refused + found.dropped + found.encoded_in_vain <= 0.02 * found.decided


def test_after_a_stall_the_encoder_recovers_at_once() -> None:
    usual = simulated(0.5 * capacity(), 60.0)
    stalled = simulated(0.5 * capacity(), 60.0, stall=(30.0, 1.0))
    lost = usual.decided - stalled.decided
    assert lost <= 0.5 * capacity() * 2.0

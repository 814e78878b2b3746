from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from extproc.embedding.encoder_files import EncoderFiles
from extproc.embedding.tokenizer import (
    CUT_CHARS_PER_TOKEN,
    Tokenizer,
    cut,
    estimate_tokens,
    pad,
)
from extproc.errors import EncoderMissing

CLS, SEP = 101, 102
# Any str at all: a JSON body can carry half a surrogate pair.
any_text = st.text(st.characters(exclude_categories=()), max_size=2000)
limits = st.integers(8, 512)


@pytest.fixture(scope="module")
def tokenizer(encoder_files: EncoderFiles) -> Tokenizer:
    return Tokenizer(encoder_files.tokenizer, max_tokens=16)


def words(tokenizer: Tokenizer, encoder_files: EncoderFiles, text: str) -> list[str | None]:
    vocabulary = tokenizers.Tokenizer.from_file(str(encoder_files.tokenizer))
    return [vocabulary.id_to_token(int(number)) for number in tokenizer.tokenize([text])[0]]


@given(any_text, limits)
def test_a_cut_text_is_never_longer_than_the_limit(text: str, max_tokens: int) -> None:
    assert len(cut(text, max_tokens)) <= CUT_CHARS_PER_TOKEN * max_tokens


@given(any_text, limits)
def test_a_text_within_the_limit_is_unchanged(text: str, max_tokens: int) -> None:
    short = text[: CUT_CHARS_PER_TOKEN * max_tokens]
    assert cut(short, max_tokens) == short


@given(st.text(min_size=8 * 8 + 1, max_size=500))
def test_a_cut_text_keeps_head_and_tail_in_equal_parts(text: str) -> None:
    head, tail = 32, 31
    assert cut(text, 8) == text[:head] + "\n" + text[-tail:]


@given(any_text, limits)
def test_the_estimate_is_within_what_the_encoder_reads(text: str, max_tokens: int) -> None:
    assert 2 <= estimate_tokens(text, max_tokens) <= max_tokens


def test_the_estimate_is_about_right_for_prose(encoder_files: EncoderFiles) -> None:
    text = "Please summarise the following paragraph about the history of the railway in two sentences."
    exact = Tokenizer(encoder_files.tokenizer, 128).tokenize([text])[0].size
    assert estimate_tokens(text, 128) == pytest.approx(exact, rel=0.3)


@given(text=any_text)
def test_any_text_at_all_gives_a_framed_row_within_the_limit(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.tokenize([text])
    assert 2 <= ids.size <= 16
    assert (ids[0], ids[-1]) == (CLS, SEP)


def test_tokens_beyond_the_limit_go_from_the_middle(
    tokenizer: Tokenizer, encoder_files: EncoderFiles
) -> None:
    text = "alpha beta gamma delta one two three four five six seven eight nine red green blue black white"
    found = words(tokenizer, encoder_files, text)
    assert len(found) == 16
    assert found[:5] == ["[CLS]", "alpha", "beta", "gamma", "delta"]
    assert found[-4:] == ["blue", "black", "white", "[SEP]"]


def test_a_question_behind_a_long_document_is_still_read(
    tokenizer: Tokenizer, encoder_files: EncoderFiles
) -> None:
    found = words(tokenizer, encoder_files, "the document " * 5_000 + "so where is the lighthouse")
    assert found[-5:] == ["so", "where", "is", "the", "lighthouse", "[SEP]"][-5:]


def test_half_a_surrogate_pair_is_read_as_a_question_mark(tokenizer: Tokenizer) -> None:
    broken, plain = tokenizer.tokenize(["hello \ud83d there", "hello ? there"])
    np.testing.assert_array_equal(broken, plain)


def test_rows_keep_the_order_of_their_texts(tokenizer: Tokenizer) -> None:
    together = tokenizer.tokenize(["hello", "a much longer text than the first", ""])
    alone = [tokenizer.tokenize([text])[0] for text in ("hello", "a much longer text than the first", "")]
    for row, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(row, expected)


def test_padding_goes_to_the_longest_and_is_masked() -> None:
    rows = [np.array(row, np.int32) for row in ([CLS, 7, SEP], [CLS, SEP], [CLS, 8, 9, SEP])]
    ids, mask = pad(rows)
    np.testing.assert_array_equal(ids, [[CLS, 7, SEP, 0], [CLS, SEP, 0, 0], [CLS, 8, 9, SEP]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    assert ids.dtype == mask.dtype == np.dtype(np.int32)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(EncoderMissing, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(path, 16)

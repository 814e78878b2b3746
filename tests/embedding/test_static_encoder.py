import numpy as np
import pytest

from extproc.embedding.encoder_files import EncoderFiles
from extproc.embedding.static_encoder import (
    DOCUMENT_KINDS,
    STATIC_MAX_TOKENS,
    TokenVectorEncoder,
    distil,
    open_static_encoder,
)
from extproc.embedding.tokenizer import Tokenizer
from extproc.errors import EncoderMissing


@pytest.fixture(scope="module")
def static(encoder_files: EncoderFiles) -> TokenVectorEncoder:
    return open_static_encoder(
        encoder_files.static_tokens, encoder_files.static_documents, encoder_files.tokenizer
    )


def test_similar_texts_have_similar_vectors(static: TokenVectorEncoder) -> None:
    question, paraphrase, other = static.encode(
        [
            "how do I get a refund for my flight",
            "refund of a cancelled flight",
            "prove the theorem about primes",
        ]
    )
    assert float(question @ paraphrase) > float(question @ other) + 0.2


def test_vectors_have_unit_length_and_do_not_depend_on_other_texts(static: TokenVectorEncoder) -> None:
    texts = [
        "hello",
        "what is the weather in Paris",
        "a much longer sentence about the price of apples " * 30,
    ]
    together = static.encode(texts)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together, np.concatenate([static.encode([text]) for text in texts]))


def test_a_text_without_tokens_has_no_direction(static: TokenVectorEncoder) -> None:
    assert not static.encode([""]).any()


def test_the_kinds_of_document_sentences_are_like_such_a_sentence(static: TokenVectorEncoder) -> None:
    document, question = static.encode(
        ["The tenant shall pay the rent on the first day of each month.", "what's on my shopping list"]
    )
    assert static.documents.shape == (DOCUMENT_KINDS, len(document))
    assert (static.documents @ document).max() > (static.documents @ question).max()


def test_frequent_words_have_lower_ranks_and_fragments_are_no_words(static: TokenVectorEncoder) -> None:
    assert static.words["the"] < static.words["weather"] < static.words["gazette"]
    assert not [word for word in static.words if word.startswith("#") or not word.isalpha()]


def test_distilling_gives_rare_tokens_more_weight_and_special_tokens_none(
    encoder_files: EncoderFiles,
) -> None:
    random = np.random.default_rng(0)
    size = len(Tokenizer(encoder_files.tokenizer, STATIC_MAX_TOKENS).vocabulary())
    alone = random.normal(size=(size, 300)).astype(np.float32)
    tokens = distil(lambda rows: alone[[int(ids[1]) for ids in rows]], size).astype(np.float32)
    lengths = np.linalg.norm(tokens, axis=1)
    assert lengths[[100, 101, 102]].tolist() == [0, 0, 0]
    assert lengths[20_000:].mean() > lengths[1000:2000].mean() * 1.2


def test_files_that_cannot_be_read_are_an_error_of_the_encoder(encoder_files: EncoderFiles) -> None:
    with pytest.raises(EncoderMissing, match="cannot be read"):
        open_static_encoder(
            encoder_files.directory / "nowhere.npy", encoder_files.static_documents, encoder_files.tokenizer
        )

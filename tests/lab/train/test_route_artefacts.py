import numpy as np

from extproc.embedding.encoder_files import EncoderFiles
from extproc.embedding.static_encoder import open_static_encoder
from extproc.lab.measure.classification_metrics import ABSTAIN
from extproc.lab.train.route_artefacts import as_read

QUESTIONS = ["what is my balance", "freeze my card", "will it rain tomorrow", "how warm is it in Rome"]
DOCUMENT = (
    "The council approved the repair of the pier.\nThe crane stood still for nine days.\n"
    "The next meeting takes place in the old customs house, and the public is welcome to attend it.\n"
    "The treasurer reported that the fees of the market had been raised by four crowns."
)


def test_of_a_row_with_a_document_training_reads_what_serving_reads(encoder_files: EncoderFiles) -> None:
    static = open_static_encoder(
        encoder_files.static_tokens, encoder_files.static_documents, encoder_files.tokenizer
    )
    long = f"{DOCUMENT}\n\nwhat is the balance of my account"
    texts, labels = [*QUESTIONS, long, "who are you"], np.array([0, 0, 1, 1, 0, ABSTAIN])
    read = as_read(static, texts, labels, 2)
    assert read == [*QUESTIONS, "what is the balance of my account", "who are you"]


def test_rows_stay_whole_where_a_route_has_long_rows_only(encoder_files: EncoderFiles) -> None:
    static = open_static_encoder(
        encoder_files.static_tokens, encoder_files.static_documents, encoder_files.tokenizer
    )
    texts = ["what is my balance", f"{DOCUMENT}\n\nsummarise this"]
    assert as_read(static, texts, np.array([0, 1]), 2) == texts

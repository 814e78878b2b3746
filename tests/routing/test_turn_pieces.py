from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.turn_pieces import ASKED, AT_AN_END, LONGEST, MOST, READ, Piece, pieces

QUESTION = "what is the balance of my savings account"
DOCUMENT = "\n".join(
    f"The council met on the {day}th of May and approved the plan for the old harbour." for day in range(4, 9)
)


def part_of(text: str, found: list[Piece]) -> Piece:
    return next(piece for piece in found if piece.text == text)


def test_a_turn_of_one_sentence_is_read_whole() -> None:
    assert [piece.part for piece in pieces(QUESTION)] == ["whole"]


def test_a_long_turn_of_one_sentence_offers_the_words_at_both_ends() -> None:
    text = " ".join(["word"] * 60) + " " + QUESTION
    assert {piece.text for piece in pieces(text)} >= {
        " ".join(text.split()[-10:]),
        " ".join(text.split()[:10]),
    }


def test_the_question_behind_a_document_is_the_last_piece_and_gains() -> None:
    piece = part_of(QUESTION, pieces(f"{DOCUMENT}\n\n{QUESTION}"))
    assert (piece.part, piece.gain) == ("last", AT_AN_END)


def test_the_question_before_a_document_is_the_first_piece_and_gains() -> None:
    piece = part_of(QUESTION, pieces(f"{QUESTION}\n\n{DOCUMENT}"))
    assert (piece.part, piece.gain) == ("first", AT_AN_END)


def test_a_line_that_announces_the_document_does_not_take_the_place_of_the_question() -> None:
    found = pieces(f"Hello Ann,\nHere is the text:\n{QUESTION}\n{DOCUMENT}")
    assert part_of(QUESTION, found).gain == AT_AN_END


def test_a_greeting_and_a_signature_do_not_take_the_place_of_the_question() -> None:
    found = pieces(f"Good morning!\n{DOCUMENT}\n{QUESTION}\nBest regards\nPietra")
    assert part_of(QUESTION, found).gain == AT_AN_END


def test_what_stands_in_fences_tags_and_quotations_gains_nothing() -> None:
    for quoted in (
        f"```\n{DOCUMENT}\n```",
        f"<document>\n{DOCUMENT}\n</document>",
        "> " + DOCUMENT.replace("\n", "\n> "),
    ):
        found = pieces(f"{QUESTION}\n{quoted}")
        assert part_of(QUESTION, found).part == "first"
        assert all(piece.gain == 0 for piece in found if "council" in piece.text and piece.part != "whole")


def test_what_is_labelled_as_the_question_gains_most() -> None:
    for turn in (
        f"Document:\n{DOCUMENT}\n\nQuestion: {QUESTION}\n{DOCUMENT}",
        f"## Task\n{QUESTION}\n\n## Input\n{DOCUMENT}",
        f"<context>\n{DOCUMENT}\n</context>\n<question>{QUESTION}</question>\n{DOCUMENT}",
        '{"input": "' + DOCUMENT.replace("\n", " ") + '", "prompt": "' + QUESTION + '"}',
    ):
        assert part_of(QUESTION, pieces(turn)).gain == ASKED, turn


def test_a_short_turn_of_several_sentences_prefers_to_stay_whole() -> None:
    found = pieces("My card was stolen. What do I do now?")
    assert found[0].part == "whole"
    assert all(piece.gain < found[0].gain for piece in found[1:])


def test_a_very_long_turn_is_read_at_both_ends() -> None:
    lines = [f"Line number {number} of the log has nothing in it" for number in range(500)]
    found = pieces("\n".join(lines))
    assert len(found) <= MOST + 1
    assert {lines[0], lines[-1]} <= {piece.text for piece in found}


@given(st.text(alphabet="ab .!?\n`<>/#{}\":,'-" + "\u3002\ud800", max_size=400))
def test_any_text_has_a_whole_and_bounded_pieces(text: str) -> None:
    found = pieces(text)
    assert found[0] == Piece(text, "whole", found[0].gain)
    assert all(piece.text.strip() and len(piece.text) <= LONGEST for piece in found[1:])
    assert found == pieces(text)


def test_of_a_huge_turn_only_both_ends_are_split() -> None:
    middle = "An endless log line without anything in it. " * 200_000
    found = pieces(f"{QUESTION}\n{middle}\nThank you all for reading this far")
    assert part_of(QUESTION, found).part == "first"
    assert part_of("Thank you all for reading this far", found).part == "last"
    assert sum(len(piece.text) for piece in found[1:]) < READ

"""A path is read as the most lenient server reads it, and Envoy's expressions match no less."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.api_paths import DOT_SEGMENT, PATHS, api_at, misspellings
from extproc.vocabulary import Api
from tests.apis.path_spellings import CHAT, LEFT, NORMALISED

EACH = pytest.mark.parametrize("api", Api)
DOTTED = re2.compile(DOT_SEGMENT)
MISSPELT = {api: [re2.compile(regex) for regex in misspellings(api)] for api in Api}


@pytest.mark.parametrize("path", [CHAT, *NORMALISED, *LEFT])
def test_every_spelling_of_the_chat_path_is_the_chat_path(path: str) -> None:
    assert api_at(path) is Api.OPENAI_CHAT


def envoy_finds(api: Api, path: str) -> bool:
    return bool(DOTTED.fullmatch(path)) or any(regex.fullmatch(path) for regex in MISSPELT[api])


def letters(text: str) -> st.SearchStrategy[str]:
    """``text`` as a server reads it that folds case and decodes twice."""
    ways = [
        st.sampled_from(
            [
                letter,
                letter.upper(),
                f"%{ord(letter):02x}",
                f"%25{ord(letter):02X}",
                f"%2525{ord(letter):02x}",
                "".join(f"%{byte:02X}" for byte in chr(ord(letter) + 0xFEE0).encode()),  # full width
            ]
        )
        for letter in text
    ]
    return st.tuples(*ways).map("".join)


parameters = st.sampled_from(["", ";", ";a=b", ";%63"])
# Envoy itself sees to `//`, `/./`, `\` and `%2f`.
separators = st.builds(
    "".join, st.tuples(parameters, st.sampled_from(["/", "%252f", "%255C", "/%252e/", "/.;/", "/x/..;/"]))
)
tails = st.sampled_from(["", "/", "/;a", ";a=b", "%20", ".json", ".", ":x", "%2500", "/%20", "/.;", "%252f"])


@EACH
@given(data=st.data())
def test_envoys_expressions_match_every_spelling_that_is_read_as_an_apis_path(
    api: Api, data: st.DataObject
) -> None:
    segments = PATHS[api][1:].split("/")
    first, *others = [data.draw(letters(segment)) for segment in segments]
    path = "/" + first + "".join(data.draw(separators) + segment for segment in others) + data.draw(tails)
    assert api_at(path) is api
    assert path == PATHS[api] or envoy_finds(api, path)


@EACH
@pytest.mark.parametrize(
    "rest",
    ["x", "-x", "_x", "/ID", "/ID/cancel", "/resp_1", "s/x"],
)
def test_other_words_and_other_resources_are_no_spelling(api: Api, rest: str) -> None:
    path = PATHS[api] + rest
    assert api_at(path) is None
    assert not envoy_finds(api, path)


@EACH
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/embeddings",
        "/v1/files/caf%C3%A9%20menu.txt",
        "/v1/models/org%40team",
        "/v1/responses/resp_1",
        "/v1/messages/count_tokens",
        "/v1/files/a..b",
        "/v1/files/...",
        "/v1beta/models/gemini:generateContent",
    ],
)
def test_what_a_client_asks_for_otherwise_is_no_spelling(api: Api, path: str) -> None:
    assert not envoy_finds(api, path)


def test_a_hostile_path_is_read_in_time_that_grows_with_its_length() -> None:
    for path in (
        "/" + "a/..;/" * 10_000,
        "/" + "%25" * 20_000,
        "/v1/chat/" * 6_000,
        "/..;/%" + "25" * 30_000,
    ):
        assert api_at(path) is None
